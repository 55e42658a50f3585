//! The manual as a page for `man`: roff with the macros of man(7) alone, so that groff and mandoc read it.

use super::blocks::{Block, Style, pieces};
use std::fmt::Write;

/// The page, of all topics.
pub fn page(topics: &[Vec<Block<'_>>]) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut out = format!(
        ".\\\" Made by: harmonylite -man\n\
         .TH HARMONYLITE 1 \"\" \"harmonylite {version}\" \"User Commands\"\n\
         .SH NAME\n\
         harmonylite \\- replicate an application's SQLite database between nodes through NATS JetStream\n\
         .SH SYNOPSIS\n\
         .B harmonylite\n\
         .B \\-config\n\
         .I FILE\n\
         .RI [ flags ]\n"
    );
    topics.iter().for_each(|blocks| topic(&mut out, blocks));
    out.push_str(".SH SEE ALSO\n.BR sqlite3 (1),\n.BR nats\\-server (8)\n");
    out
}

fn topic(out: &mut String, blocks: &[Block<'_>]) {
    for (at, block) in blocks.iter().enumerate() {
        // A paragraph directly after a heading needs no request: mandoc warns of one that does nothing.
        let is_first = at > 0 && matches!(blocks[at - 1], Block::Heading(..));
        match block {
            Block::Heading(1, text) => put(out, &format!(".SH {}", heading(&text.to_uppercase()))),
            Block::Heading(_, text) => put(out, &format!(".SS {}", heading(text))),
            Block::Paragraph(text) => {
                if !is_first {
                    put(out, ".PP");
                }
                put(out, &inline(text));
            }
            Block::Item("-", text) => put(out, &format!(".IP \\(bu 2\n{}", inline(text))),
            Block::Item(mark, text) => put(out, &format!(".IP {mark} 4\n{}", inline(text))),
            Block::Table(rows) => table(out, rows),
            Block::Code(lines) => {
                let lines: Vec<String> = lines.iter().map(|line| guarded(&escape(line))).collect();
                let begin = if is_first { "" } else { ".PP\n" };
                put(out, &format!("{begin}.RS 4\n.nf\n{}\n.fi\n.RE", lines.join("\n")));
            }
        }
    }
}

fn put(out: &mut String, line: &str) {
    let _ = writeln!(out, "{line}");
}

/// Each row is a tag, its first cell, and a text, the others.
fn table(out: &mut String, rows: &[Vec<&str>]) {
    let Some((header, rows)) = rows.split_first() else { return };
    for row in rows {
        let tag = row.first().copied().unwrap_or_default();
        put(out, &format!(".TP\n{}", inline(tag)));
        let cells = row.iter().zip(header).skip(1).filter(|(cell, _)| !cell.is_empty());
        let cells: Vec<String> = cells
            .map(|(cell, name)| {
                let is_named = row.len() > 2 && !name.is_empty();
                if is_named { inline(&format!("{name}: {cell}")) } else { inline(cell) }
            })
            .collect();
        put(out, &cells.join("\n.br\n"));
    }
}

/// A heading is one argument of its request.
fn heading(text: &str) -> String {
    let text: String = pieces(text).into_iter().map(|(_, piece)| piece).collect();
    format!("\"{}\"", escape(&text.replace('"', "'")))
}

/// A text with its fonts, a sentence or so on each line.
fn inline(text: &str) -> String {
    let marked: String = pieces(text)
        .into_iter()
        .map(|(style, piece)| match style {
            Style::Plain => escape(piece),
            Style::Code | Style::Strong => format!("\\fB{}\\fR", escape(piece)),
            Style::Emphasis => format!("\\fI{}\\fR", escape(piece)),
        })
        .collect();
    let mut lines: Vec<String> = vec![];
    let mut line = String::new();
    for word in marked.split_whitespace() {
        if !line.is_empty() && line.len() + word.len() > 76 {
            lines.push(guarded(&std::mem::take(&mut line)));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(guarded(&line));
    lines.join("\n")
}

/// A line that begins with what roff takes for a request is none.
fn guarded(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
}

/// What roff would obey, or does not know, by its names.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            '^' => out.push_str("\\(ha"),
            '~' => out.push_str("\\(ti"),
            '`' => out.push_str("\\(ga"),
            '\'' => out.push_str("\\(aq"),
            c if c.is_ascii() => out.push(c),
            c => {
                let _ = write!(out, "\\[u{:04X}]", u32::from(c));
            }
        }
    }
    out
}
