//! What the manual's Markdown is made of. It uses headings, paragraphs, lists, tables and fenced code, and nothing else.

/// A part of a topic. Texts are on one line, with their marks (`**`, `*`, backticks).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block<'a> {
    /// With its level, from 1.
    Heading(usize, &'a str),
    Paragraph(String),
    /// One of a list; its mark is `-` or a number with a full stop.
    Item(&'a str, String),
    /// Rows of cells; the first row is the header.
    Table(Vec<Vec<&'a str>>),
    Code(Vec<&'a str>),
}

/// Takes a topic apart.
pub fn parse(text: &str) -> Vec<Block<'_>> {
    let mut blocks = vec![];
    let mut lines = text.lines().peekable();
    // Whether the line before ends what the next one could go on with.
    let mut apart = true;
    while let Some(line) = lines.next() {
        if line.is_empty() {
            apart = true;
            continue;
        }
        let marks = line.len() - line.trim_start_matches('#').len();
        if line.starts_with("```") {
            blocks.push(Block::Code(lines.by_ref().take_while(|line| !line.starts_with("```")).collect()));
            apart = true;
        } else if marks > 0 {
            blocks.push(Block::Heading(marks, line[marks..].trim()));
            apart = true;
        } else if line.starts_with('|') {
            match blocks.last_mut() {
                Some(Block::Table(_)) if !apart && line.starts_with("|---") => {}
                Some(Block::Table(rows)) if !apart => rows.push(cells(line)),
                _ => blocks.push(Block::Table(vec![cells(line)])),
            }
            apart = false;
        } else if let Some((mark, rest)) = item(line) {
            blocks.push(Block::Item(mark, rest.to_owned()));
            apart = false;
        } else {
            match blocks.last_mut() {
                Some(Block::Paragraph(text) | Block::Item(_, text)) if !apart => {
                    text.push(' ');
                    text.push_str(line.trim());
                }
                _ => blocks.push(Block::Paragraph(line.trim().to_owned())),
            }
            apart = false;
        }
    }
    blocks
}

/// The mark and the text of a list's item.
fn item(line: &str) -> Option<(&str, &str)> {
    let (mark, rest) = line.split_once(' ')?;
    let number = mark.strip_suffix('.').is_some_and(|digits| digits.parse::<u8>().is_ok());
    (mark == "-" || number).then_some((mark, rest))
}

/// The cells of a table's row. A bar between backticks is text.
fn cells(line: &str) -> Vec<&str> {
    let inside = line.trim().trim_start_matches('|');
    let inside = inside.strip_suffix('|').unwrap_or(inside);
    let mut is_code = false;
    let parts = inside.split(move |c| {
        is_code ^= c == '`';
        c == '|' && !is_code
    });
    parts.map(str::trim).collect()
}

/// The pieces of a text, each with how it stands there.
pub fn pieces(text: &str) -> Vec<(Style, &str)> {
    let mut found = vec![];
    let mut rest = text;
    while let Some(at) = rest.find(['`', '*']) {
        let (style, mark) = match rest.get(at..at + 2) {
            Some("**") => (Style::Strong, "**"),
            _ if rest[at..].starts_with('`') => (Style::Code, "`"),
            _ => (Style::Emphasis, "*"),
        };
        let after = &rest[at + mark.len()..];
        // A star that nothing closes, or that a space follows, is a star.
        let end =
            after.find(mark).filter(|end| *end > 0 && (style == Style::Code || !after.starts_with(' ')));
        let Some(end) = end else {
            found.push((Style::Plain, &rest[..at + mark.len()]));
            rest = after;
            continue;
        };
        found.push((Style::Plain, &rest[..at]));
        found.push((style, &after[..end]));
        rest = &after[end + mark.len()..];
    }
    found.push((Style::Plain, rest));
    found.retain(|(_, piece)| !piece.is_empty());
    found
}

/// How a piece of text stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    Code,
    Strong,
    Emphasis,
}
