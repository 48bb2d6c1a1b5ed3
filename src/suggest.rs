//! What was probably meant: the valid word nearest to a mistyped one.

/// The candidate nearest to `word`, if one is near enough to have been meant: about one slip in three letters, where
/// a slip is a letter too many, missing, wrong, or swapped with its neighbour. Letter case costs nothing.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = letters(word);
    if word.is_empty() || word.len() > LONGEST {
        return None;
    }
    let limit = word.len().div_ceil(3);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST && candidate.len().abs_diff(word.len()) <= limit)
        .map(|candidate| (distance(&word, &letters(candidate)), candidate))
        .filter(|(slips, _)| *slips <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// `, did you mean `…`?` when something is near enough, else nothing: the tail of an error message.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |candidate| format!(", did you mean `{candidate}`?"))
}

fn letters(word: &str) -> Vec<char> {
    word.chars().map(|letter| letter.to_ascii_lowercase()).collect()
}

/// The number of slips between two words, by rows of the usual table (optimal string alignment).
fn distance(from: &[char], to: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    let mut last_from = None;
    for (row, &from) in from.iter().enumerate() {
        let mut current = vec![row + 1];
        let mut last_to = None;
        for (column, &to) in to.iter().enumerate() {
            let cell = |line: &[usize], column: usize| line.get(column).copied().unwrap_or(usize::MAX - 1);
            let replaced = cell(&above, column) + usize::from(from != to);
            let mut slips = replaced.min(cell(&above, column + 1) + 1).min(cell(&current, column) + 1);
            if last_from == Some(to) && last_to == Some(from) {
                slips = slips.min(cell(&before, column.saturating_sub(1)) + 1);
            }
            current.push(slips);
            last_to = Some(to);
        }
        before = std::mem::replace(&mut above, current);
        last_from = Some(from);
    }
    above.last().copied().unwrap_or_default()
}

/// Longer words are not compared: the work grows with the square of the length.
const LONGEST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: [&str; 5] = ["api_key", "certificate", "developer", "product", "status"];

    #[test]
    fn one_slip_is_forgiven() {
        for (word, meant) in [
            ("prodct", "product"),
            ("prodcut", "product"),
            ("produuct", "product"),
            ("oroduct", "product"),
            ("Status", "status"),
            ("api-key", "api_key"),
            ("apikey", "api_key"),
        ] {
            assert_eq!(nearest(word, WORDS), Some(meant), "{word}");
        }
    }

    #[test]
    fn a_different_word_is_no_slip() {
        for word in ["", "x", "quota", "service", "日本語", &"product".repeat(20)] {
            assert_eq!(nearest(word, WORDS), None, "{word}");
        }
    }

    #[test]
    fn distances_are_counted_in_slips() {
        for (from, to, slips) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abcd", "abdc", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
        ] {
            assert_eq!(distance(&letters(from), &letters(to)), slips, "{from} {to}");
        }
    }

    #[test]
    fn the_tail_of_a_message_is_empty_without_a_guess() {
        assert_eq!(did_you_mean("prodct", WORDS), ", did you mean `product`?");
        assert_eq!(did_you_mean("quota", WORDS), "");
    }
}
