//! The manual: its texts, and what becomes of them.

use super::blocks::{Block, Style, parse, pieces};
use super::*;

/// All of the manual is in the binary: on a router its size counts.
const BYTES: usize = 100 << 10;

#[test]
fn the_texts_are_bounded_and_each_begins_with_its_title() {
    let all: usize = TOPICS.iter().map(|(_, text)| text.len()).sum();
    assert!(all <= BYTES, "{all} bytes, {BYTES} at most");
    for (name, text) in TOPICS {
        assert!(text.starts_with("# "), "{name}");
        assert!(text.is_ascii() || !text.contains('\u{1b}'), "{name}");
        assert!(!text.contains("](#"), "{name}: a link that no terminal follows");
    }
}

#[test]
fn the_manual_names_only_topics_that_there_are() {
    for (name, text) in TOPICS {
        for part in text.split("-help ").skip(1) {
            let word: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            assert!(word.is_empty() || word == "topics" || topics().contains(&&*word), "{name}: {word}");
        }
    }
}

#[test]
fn text_is_taken_apart() {
    let text = "# A\nx\ny\n\n- one\n  more\n- two\n\n1. three\n\n| a | b |\n|---|---|\n| `x|y` | |\n\n```sh\ncode\n\n```\nend\n";
    let table = Block::Table(vec![vec!["a", "b"], vec!["`x|y`", ""]]);
    assert_eq!(
        parse(text),
        [
            Block::Heading(1, "A"),
            Block::Paragraph("x y".into()),
            Block::Item("-", "one more".into()),
            Block::Item("-", "two".into()),
            Block::Item("1.", "three".into()),
            table,
            Block::Code(vec!["code", ""]),
            Block::Paragraph("end".into()),
        ]
    );
    assert_eq!(
        pieces("a **b** `c*` *d* 2 * 3"),
        [
            (Style::Plain, "a "),
            (Style::Strong, "b"),
            (Style::Plain, " "),
            (Style::Code, "c*"),
            (Style::Plain, " "),
            (Style::Emphasis, "d"),
            (Style::Plain, " 2 *"),
            (Style::Plain, " 3"),
        ]
    );
}

#[test]
fn a_terminal_gets_lines_that_fit_and_no_word_is_lost() {
    for (name, text) in TOPICS {
        let blocks = parse(text);
        let shown = plain::text(&blocks);
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{name}");
        for block in &blocks {
            match block {
                Block::Code(lines) => assert!(lines.iter().all(|line| shown.contains(line)), "{name}"),
                Block::Paragraph(text) | Block::Item(_, text) => {
                    let bare: String = text.replace(['*', '`'], "");
                    let joined =
                        shown.replace(['*', '`'], "").split_whitespace().collect::<Vec<_>>().join(" ");
                    let bare = bare.split_whitespace().collect::<Vec<_>>().join(" ");
                    assert!(joined.contains(&bare), "{name}: {bare}");
                }
                _ => {}
            }
        }
        // Code is shown as it is; what has no space cannot be broken.
        let long = shown.lines().filter(|line| {
            line.chars().count() > 80 && !line.starts_with("    ") && line.trim().contains(' ')
        });
        assert_eq!(long.collect::<Vec<_>>(), Vec::<&str>::new(), "{name}");
    }
}

#[test]
fn roff_holds_no_request_by_accident() {
    let page = roff::page(&[parse("# A\n.B x 'y\n\n```sh\n.so /etc/passwd\n'x\\n\n```\n\n- a-b \u{b1}\n")]);
    for line in [".SH \"A\"", "\\&.B x \\(aqy", "\\&.so /etc/passwd", "\\(aqx\\en", "a\\-b \\[u00B1]"] {
        assert!(page.lines().any(|found| found == line), "{line} in {page}");
    }
}
