//! Field blocks of HTTP/2 as they are encoded (RFC 7541): what can be said of one without the tables that decode it.

/// Whether a field block cannot be decoded, whatever stands in the dynamic table.
///
/// > A decoding error in a field block MUST be treated as a connection error of type COMPRESSION_ERROR. — RFC 9113 §4.3
pub(super) fn is_unreadable(mut block: &[u8]) -> bool {
    let mut begun = false;
    while let Some(&first) = block.first() {
        let read = match first {
            0x80.. => integer(&mut block, 7).filter(|index| (1..=LAST_INDEX).contains(index)).map(|_| ()),
            // > This dynamic table size update MUST occur at the beginning of the first header block — RFC 7541 §4.2
            0x20..0x40 if begun => None,
            0x20..0x40 => integer(&mut block, 5).filter(|size| *size <= TABLE_SIZE).map(|_| ()),
            _ => literal(&mut block, if first < 0x40 { 4 } else { 6 }),
        };
        begun |= !(0x20..0x40).contains(&first);
        if read.is_none() {
            return true;
        }
    }
    false
}

/// Takes a literal field off the front, whose name is given by an index or by letters.
fn literal(block: &mut &[u8], prefix: u32) -> Option<()> {
    let index = integer(block, prefix).filter(|index| *index <= LAST_INDEX)?;
    let strings = if index == 0 { 2 } else { 1 };
    for _ in 0..strings {
        let is_huffman = block.first().is_some_and(|first| first & 0x80 != 0);
        let text = string(block)?;
        if is_huffman && !is_huffman_code(text) {
            return None;
        }
    }
    Some(())
}

/// > SETTINGS_HEADER_TABLE_SIZE […] The initial value is 4,096 octets. — RFC 9113 §6.5.2
///
/// We never announce another.
const TABLE_SIZE: usize = 4096;

/// The static table, and as many entries as the dynamic one has room for: each counts 32 bytes at least (RFC 7541 §4.1).
const LAST_INDEX: usize = 61 + TABLE_SIZE / 32;

/// Whether `text` is a sequence of whole letters, and padding as it has to be.
///
/// > A padding strictly longer than 7 bits MUST be treated as a decoding error. A padding not corresponding to the most significant
/// > bits of the code for the EOS symbol MUST be treated as a decoding error. A Huffman-encoded string literal containing the EOS
/// > symbol MUST be treated as a decoding error. — RFC 7541 §5.2
fn is_huffman_code(text: &[u8]) -> bool {
    let bits = text.iter().flat_map(|byte| (0..8).rev().map(move |at| u32::from(byte >> at & 1)));
    let (mut code, mut length, mut first, mut is_all_ones) = (0_u32, 0_usize, 0_u32, true);
    for bit in bits {
        (code, length, first) = (code << 1 | bit, length + 1, first << 1);
        is_all_ones &= bit == 1;
        let Some(&letters) = LETTERS.get(length) else { return false };
        if code - first < letters {
            (code, length, first, is_all_ones) = (0, 0, 0, true);
        } else {
            first += letters;
        }
    }
    length < 8 && is_all_ones
}

/// How many letters have a code of so many bits (RFC 7541 appendix B). The codes of one length follow each other, and begin where
/// those of the length before have ended; the last one of all, 30 ones, is no letter but the end mark.
const LETTERS: [u32; 31] =
    [0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 3];

/// Whether a field block (RFC 7541 §6) names a pseudo-header field, by the static table or letter by letter. What is named by the
/// dynamic table is not known here; the library drops it.
pub(super) fn names_pseudo(mut block: &[u8]) -> bool {
    while let Some(&first) = block.first() {
        let (prefix, is_indexed) = match first {
            0x80.. => (7, true),
            0x40.. => (6, false),
            // A change of the table's size names nothing.
            0x20.. => {
                if integer(&mut block, 5).is_none() {
                    return false;
                }
                continue;
            }
            _ => (4, false),
        };
        let Some(index) = integer(&mut block, prefix) else { return false };
        if (1..=LAST_PSEUDO).contains(&index) {
            return true;
        }
        if is_indexed {
            continue;
        }
        if index == 0 {
            let is_huffman = block.first().is_some_and(|first| first & 0x80 != 0);
            let Some(name) = string(&mut block) else { return false };
            let begins = name.first().copied();
            if begins.is_some_and(|byte| if is_huffman { byte >> 1 == HUFFMAN_COLON } else { byte == b':' }) {
                return true;
            }
        }
        if string(&mut block).is_none() {
            return false;
        }
    }
    false
}

/// The static table begins with `:authority` and has `:status 500` here (RFC 7541 appendix A).
const LAST_PSEUDO: usize = 14;

/// `:` is `1011100` (RFC 7541 appendix B).
const HUFFMAN_COLON: u8 = 0b101_1100;

/// Takes an integer with a prefix of so many bits off the front (RFC 7541 §5.1); none when it is cut off or beyond all sense.
fn integer(block: &mut &[u8], prefix: u32) -> Option<usize> {
    let (&first, mut rest) = block.split_first()?;
    let mask = (1_usize << prefix) - 1;
    let mut value = usize::from(first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (&next, after) = rest.split_first()?;
            rest = after;
            value = value.checked_add((usize::from(next) & 0x7f) << shift)?;
            shift += 7;
            if next & 0x80 == 0 {
                break;
            }
            if shift > 21 {
                return None;
            }
        }
    }
    *block = rest;
    Some(value)
}

/// Takes a string as it is encoded off the front (RFC 7541 §5.2).
fn string<'b>(block: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length)?;
    *block = rest;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_table_could_decode_is_known() {
        let whole: [&[u8]; 9] = [
            b"",
            b"\x82\x84\x87",
            b"\x20\x3f\xe1\x1f\x82",
            b"\x40\x03abc\x01x",
            b"\x04\x02/x\x82",
            b"\xff\x3e",
            // RFC 7541 appendix C.4.1 and C.6.1.
            b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
            b"\x48\x82\x64\x02\x58\x85\xae\xc3\x77\x1a\x4b\x61\x96\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff",
            // Names that no field has can be decoded all the same.
            b"\x00\x01A\x01\n",
        ];
        for block in whole {
            assert!(!is_unreadable(block), "{}", block.escape_ascii());
        }
        let broken: [&[u8]; 12] = [
            b"\x80",
            b"\xff\x3f",
            b"\x40",
            b"\x40\x05:pa",
            b"\x82\x20",
            b"\x3f\xe2\x1f",
            b"\x7f\xff\xff\xff\xff\xff\x00",
            b"\x00\x01a\x81\x00",
            b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff",
            b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90",
            b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x51\xff\xff\xff\xfa\x7f",
            b"\x00\x01a\x84\xff\xff\xff\xff",
        ];
        for block in broken {
            assert!(is_unreadable(block), "{}", block.escape_ascii());
        }
    }
}
