//! The manual for a terminal: lines of at most 80 columns, without a character that a terminal obeys.

use super::blocks::{Block, Style, pieces};

const WIDTH: usize = 80;

/// A topic as text.
pub fn text(blocks: &[Block<'_>]) -> String {
    let mut out = String::new();
    for (at, block) in blocks.iter().enumerate() {
        let goes_on = matches!(block, Block::Item(..)) && at > 0 && matches!(blocks[at - 1], Block::Item(..));
        if at > 0 && !goes_on {
            out.push('\n');
        }
        match block {
            Block::Heading(level, text) => {
                let text = if *level == 1 { text.to_uppercase() } else { plain(text) };
                out.push_str(&format!("{text}\n"));
            }
            Block::Paragraph(text) => wrap(&mut out, "  ", "  ", &plain(text)),
            Block::Item(mark, text) => {
                let first = format!("  {mark} ");
                wrap(&mut out, &first, &" ".repeat(first.len()), &plain(text));
            }
            Block::Table(rows) => table(&mut out, rows),
            Block::Code(lines) => lines.iter().for_each(|line| out.push_str(&format!("    {line}\n"))),
        }
    }
    out
}

/// Without marks, but for the backticks of code, which say where it begins and ends.
fn plain(text: &str) -> String {
    pieces(text)
        .into_iter()
        .map(|(style, piece)| if style == Style::Code { format!("`{piece}`") } else { piece.to_owned() })
        .collect()
}

/// Words in lines; the first line begins with `first`, the others with `next`.
fn wrap(out: &mut String, first: &str, next: &str, text: &str) {
    let mut line = first.to_owned();
    let mut is_begun = false;
    for word in text.split_whitespace() {
        if is_begun && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(line.trim_end());
            out.push('\n');
            line = next.to_owned();
            is_begun = false;
        }
        if is_begun {
            line.push(' ');
        }
        line.push_str(word);
        is_begun = true;
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

/// Side by side where it fits; otherwise each row is its first cell, and the others below it.
fn table(out: &mut String, rows: &[Vec<&str>]) {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| plain(cell).replace('`', "")).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    if widths.iter().sum::<usize>() + 2 * columns <= WIDTH {
        for row in &rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            out.push_str(format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end());
            out.push('\n');
        }
        return;
    }
    let (header, rows) = rows.split_first().map_or((&[][..], &[][..]), |(header, rows)| (&header[..], rows));
    for row in rows {
        wrap(out, "  ", "    ", row.first().map_or("", String::as_str));
        for (cell, name) in row.iter().zip(header).skip(1).filter(|(cell, _)| !cell.is_empty()) {
            let is_named = row.len() > 2 && !name.is_empty();
            let text = if is_named { format!("{name}: {cell}") } else { cell.clone() };
            wrap(out, "      ", "      ", &text);
        }
    }
}
