//! What an edit would change in a file, line by line.

/// The lines that differ, with a little of what surrounds them, as `diff -u` shows them.
pub(super) fn diff(name: &str, former: &str, next: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (former.lines().collect(), next.lines().collect());
    let steps = steps(&old, &new);
    let near = |at: usize| {
        let from = at.saturating_sub(CONTEXT);
        steps.iter().skip(from).take(at - from + CONTEXT + 1).any(|(sign, _)| *sign != ' ')
    };
    let mut text = format!("--- {name}\n+++ {name}\n");
    let mut skipped = true;
    for (at, (sign, line)) in steps.iter().enumerate() {
        if near(at) {
            if skipped {
                text.push_str("@@\n");
            }
            text.push_str(&format!("{sign}{line}\n"));
        }
        skipped = !near(at);
    }
    text
}

/// Every line with its sign, by the longest common subsequence of what lies between the equal ends.
fn steps<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<(char, &'t str)> {
    let head = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let rest = old.len().min(new.len()) - head;
    let tail = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(old, new)| old == new).count();
    let middle = |lines: &[&'t str]| lines.get(head..lines.len() - tail).unwrap_or_default().to_vec();
    let (left, right) = (middle(old), middle(new));
    let mut steps: Vec<_> = old.iter().take(head).map(|line| (' ', *line)).collect();
    if left.len() * right.len() > LARGEST_TABLE {
        steps.extend(left.iter().map(|line| ('-', *line)));
        steps.extend(right.iter().map(|line| ('+', *line)));
    } else {
        steps.extend(between(&left, &right));
    }
    steps.extend(old.iter().skip(old.len() - tail).map(|line| (' ', *line)));
    steps
}

fn between<'t>(left: &[&'t str], right: &[&'t str]) -> Vec<(char, &'t str)> {
    let width = right.len() + 1;
    let mut common = vec![0_u32; (left.len() + 1) * width];
    let cell =
        |common: &[u32], row: usize, column: usize| common.get(row * width + column).copied().unwrap_or(0);
    for (row, old) in left.iter().enumerate().rev() {
        for (column, new) in right.iter().enumerate().rev() {
            let length = if old == new {
                cell(&common, row + 1, column + 1) + 1
            } else {
                cell(&common, row + 1, column).max(cell(&common, row, column + 1))
            };
            if let Some(place) = common.get_mut(row * width + column) {
                *place = length;
            }
        }
    }
    let (mut row, mut column, mut steps) = (0, 0, Vec::new());
    loop {
        match (left.get(row), right.get(column)) {
            (Some(old), Some(new)) if old == new => {
                steps.push((' ', *old));
                (row, column) = (row + 1, column + 1);
            }
            (Some(old), next)
                if next.is_none() || cell(&common, row + 1, column) >= cell(&common, row, column + 1) =>
            {
                steps.push(('-', *old));
                row += 1;
            }
            (_, Some(new)) => {
                steps.push(('+', *new));
                column += 1;
            }
            (_, None) => return steps,
        }
    }
}

const CONTEXT: usize = 3;

/// Beyond so many comparisons the whole middle is shown as replaced.
const LARGEST_TABLE: usize = 4_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_and_its_surroundings_are_shown() {
        let former: String = (0..20).map(|number| format!("line {number}\n")).collect();
        let next = former.replace("line 10\n", "line ten\n").replace("line 2\n", "");

        let text = diff("a.toml", &former, &next);

        let expected = "--- a.toml\n+++ a.toml\n@@\n line 0\n line 1\n-line 2\n line 3\n line 4\n line 5\n@@\n line 7\n line 8\n \
                        line 9\n-line 10\n+line ten\n line 11\n line 12\n line 13\n";
        assert_eq!(text, expected);
        assert_eq!(diff("b", "", "x\n"), "--- b\n+++ b\n@@\n+x\n");
    }
}
