//! The status as a page for a browser: one document without anything from elsewhere, read-only, readable on a phone. It fetches
//! itself again every two seconds; without scripts, the browser loads it every ten.

use super::words::{age, behind, bytes, roles};
use crate::base::clock;
use serde_json::Value;
use std::fmt::Write;

const STYLE: &str = "\
:root{color-scheme:light dark;--back:#f4f5f7;--card:#fff;--text:#1b1f24;--dim:#5b6470;--line:#d9dde3;--good:#17803d;--look:#9a5b00;--bad:#c01c28}
@media(prefers-color-scheme:dark){:root{--back:#14171b;--card:#1d2228;--text:#e6e9ed;--dim:#9aa4b0;--line:#333b45;--good:#4cc26f;--look:#f0b429;--bad:#ff6b6b}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);font:16px/1.45 system-ui,sans-serif}
main{max-width:64rem;margin:0 auto;padding:1rem}
h1{font-size:1.35rem;margin:.2rem 0 .8rem}
h2{font-size:1rem;margin:0 0 .4rem;color:var(--dim)}
section{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.8rem 1rem;margin:0 0 .8rem;overflow-x:auto}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:0 .8rem}
dl{display:grid;grid-template-columns:fit-content(9rem) 1fr;gap:.15rem .8rem;margin:0}
dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.3rem .7rem .3rem 0;border-top:1px solid var(--line);white-space:nowrap}
th{color:var(--dim);font-weight:normal;border:0}
.good{color:var(--good)}.look{color:var(--look)}.bad{color:var(--bad)}
.word{font-weight:bold}
ul{margin:0;padding-left:1.1rem}
#lost{display:none;background:var(--bad);color:#fff;padding:.6rem 1rem}
.lost #lost{display:block}.lost main{opacity:.45}
footer{color:var(--dim);font-size:.85rem}";

const SCRIPT: &str = "\
let late=0;setInterval(async()=>{try{const a=await fetch(location.pathname,{cache:'no-store',signal:AbortSignal.timeout(4000)});
const d=new DOMParser().parseFromString(await a.text(),'text/html');
document.querySelector('main').replaceWith(d.querySelector('main'));document.title=d.title;late=0;document.body.className=''}
catch(e){if(++late>1)document.body.className='lost'}},2000)";

/// The page, of a status document.
pub fn page(status: &Value) -> String {
    let node = &status["node"];
    let word = text(&node["status"]);
    let title = format!("{word}: node {} of harmonylite", text(&node["node_id"]));
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';style-src 'unsafe-inline';script-src 'unsafe-inline';\
         connect-src 'self';img-src data:\"><meta name=\"referrer\" content=\"no-referrer\"><link rel=\"icon\" href=\"data:,\">\
         <noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript><title>{title}</title><style>{STYLE}</style></head>\
         <body><div id=\"lost\">This node does not answer. What is shown below is old.</div><main>{}</main><script>{SCRIPT}</script></body></html>\n",
        content(status)
    )
}

fn content(status: &Value) -> String {
    let node = &status["node"];
    let word = text(&node["status"]);
    let class = match word.as_str() {
        "healthy" => "good",
        "degraded" => "look",
        _ => "bad",
    };
    let mut out = format!(
        "<h1>Node {} on {} <span id=\"status\" class=\"word {class}\">{word}</span></h1>",
        text(&node["node_id"]),
        text(&node["host"])
    );
    let problems = list(&node["problems"]);
    if !problems.is_empty() {
        let items: String = problems.iter().map(|why| format!("<li>{}</li>", text(why))).collect();
        let _ = write!(
            out,
            "<section id=\"problems\" class=\"{class}\"><h2>What to look at</h2><ul>{items}</ul></section>"
        );
    }
    let others: String = list(&node["others"]).iter().map(|why| format!("<li>{}</li>", text(why))).collect();
    if !others.is_empty() {
        let _ = write!(out, "<section id=\"others\"><h2>Other nodes</h2><ul>{others}</ul></section>");
    }
    out += &nodes(status);
    out += "<div class=\"cards\">";
    out += &this_node(status);
    out += &waiting(status);
    out += &snapshot(status);
    out += &traffic(status);
    out += "</div>";
    let _ = write!(
        out,
        "<footer>harmonylite {}, {}. The same for programs: <code>harmonylite -status -json</code></footer>",
        text(&node["version"]),
        text(&status["time"])
    );
    out
}

fn nodes(status: &Value) -> String {
    let me = &status["node"];
    let mut rows = row(&[
        ("", format!("{} (this)", text(&me["node_id"]))),
        ("good", "alive".to_owned()),
        ("", behind(&status["behind"])),
        ("", roles(me)),
        ("", text(&me["version"])),
        ("", text(&me["host"])),
    ]);
    for node in list(&status["nodes"]) {
        let presence = text(&node["presence"]);
        let class = match presence.as_str() {
            "alive" if node["problems"] == 0 => "good",
            "alive" | "unknown" | "stopped" => "look",
            _ => "bad",
        };
        let seen = match presence.as_str() {
            "alive" if node["problems"] == 0 => presence,
            "alive" => format!("alive, {} to look at", count(&node["problems"], "problem")),
            _ => format!("{presence}, last seen {} ago", age(&node["heard_seconds_ago"])),
        };
        rows += &row(&[
            ("", text(&node["node_id"])),
            (class, seen),
            ("", behind(&node["behind"])),
            ("", roles(node)),
            ("", text(&node["version"])),
            ("", text(&node["host"])),
        ]);
    }
    format!(
        "<section id=\"nodes\"><h2>Nodes</h2><table><tr><th>Node</th><th>State</th><th>Behind</th><th>Role</th><th>Version</th>\
         <th>Machine</th></tr>{rows}</table></section>"
    )
}

fn row(cells: &[(&str, String)]) -> String {
    let cells: String =
        cells.iter().map(|(class, cell)| format!("<td class=\"{class}\">{cell}</td>")).collect();
    format!("<tr>{cells}</tr>")
}

fn this_node(status: &Value) -> String {
    let node = &status["node"];
    let streams = list(&status["streams"]);
    let position = |stream: &Value| {
        let [name, position, end] = ["name", "position", "end"].map(|key| text(&stream[key]));
        ("Position".to_owned(), format!("{position} of {end} ({name})"))
    };
    let broker = if node["connected"] == true { "connected".to_owned() } else { text(&node["last_error"]) };
    let open = if node["database_open"] == true { "open" } else { "not open" };
    let mut pairs = vec![
        (
            "Database".to_owned(),
            format!("{}, {open}, {}", text(&node["database"]), count(&node["tables"], "table")),
        ),
        ("Broker".to_owned(), broker),
        ("Running for".to_owned(), age(&node["uptime_seconds"])),
    ];
    pairs.extend(streams.iter().map(position));
    card("This node", "node", &pairs)
}

fn waiting(status: &Value) -> String {
    let (node, waiting) = (&status["node"], &status["waiting"]);
    let mut pairs = vec![];
    if node["waits_for"].is_string() {
        pairs.push(("This node waits".to_owned(), text(&node["waits_for"])));
    }
    pairs.push(("Not confirmed".to_owned(), count(&waiting["not_confirmed"], "change")));
    let aside = list(&waiting["set_aside"]);
    pairs.extend(aside.iter().map(|of| {
        let table =
            if of["table"] == "" { "no events".to_owned() } else { format!("table {}", text(&of["table"])) };
        ("Set aside".to_owned(), format!("{table}: {} {}", text(&of["events"]), text(&of["state"])))
    }));
    if aside.is_empty() {
        pairs.push(("Set aside".to_owned(), "nothing".to_owned()));
    }
    pairs.push(("Conflicts kept".to_owned(), text(&status["conflicts"]["kept"])));
    let compared = &status["compared"];
    let equal = match compared["equal"].as_bool() {
        Some(true) => format!("equal at {}", text(&compared["time"])),
        Some(false) => format!(
            "<span class=\"bad\">not equal</span> at {}: {}",
            text(&compared["time"]),
            text(&compared["text"])
        ),
        None => "never since the start".to_owned(),
    };
    pairs.push(("Compared".to_owned(), equal));
    card("What waits", "waiting", &pairs)
}

fn snapshot(status: &Value) -> String {
    let snapshot = &status["snapshot"];
    let when = |time: &Value, by: &Value| match time.as_str().and_then(clock::parse) {
        Some(ms) => {
            let seconds = clock::unix_ms().saturating_sub(ms).max(0) / 1000;
            format!("{} ago, by node {}", age(&seconds.into()), text(by))
        }
        None => "none since the start".to_owned(),
    };
    let mut pairs = vec![
        ("Stored".to_owned(), when(&snapshot["stored"], &snapshot["stored_by"])),
        ("Restore proven".to_owned(), when(&snapshot["proven"], &snapshot["proven_by"])),
    ];
    for (name, key) in [("Failed", "failure"), ("Not proven", "unproven")] {
        if snapshot[key].is_string() {
            pairs.push((name.to_owned(), format!("<span class=\"bad\">{}</span>", text(&snapshot[key]))));
        }
    }
    card("Snapshots", "snapshot", &pairs)
}

fn traffic(status: &Value) -> String {
    let traffic = &status["traffic"];
    let mut pairs = vec![
        ("Sent".to_owned(), bytes(&traffic["sent"])),
        ("Received".to_owned(), bytes(&traffic["received"])),
        ("To the disk".to_owned(), bytes(&traffic["written_to_disk"])),
    ];
    if traffic["written_a_replicated_byte"].is_number() {
        pairs.push((
            "A replicated byte".to_owned(),
            format!("{} written", text(&traffic["written_a_replicated_byte"])),
        ));
    }
    for (name, key) in [("Today", "today"), ("This month", "this_month")] {
        let of = |what: &str| bytes(&traffic[key][what]);
        let all = format!(
            "{} sent, {} received, {} to the disk",
            of("sent"),
            of("received"),
            of("written_to_disk")
        );
        pairs.push((name.to_owned(), all));
    }
    card(&format!("Traffic in {}", age(&traffic["since_seconds"])), "traffic", &pairs)
}

fn card(title: &str, id: &str, pairs: &[(String, String)]) -> String {
    let pairs: String =
        pairs.iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{value}</dd>")).collect();
    format!("<section id=\"{id}\"><h2>{title}</h2><dl>{pairs}</dl></section>")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text or number as HTML: what others have named must not become markup.
fn text(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn count(value: &Value, of: &str) -> String {
    match value.as_u64() {
        Some(1) => format!("1 {of}"),
        Some(number) => format!("{number} {of}s"),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_others_have_named_is_no_markup() {
        let evil = "<script>alert(1)</script>\"'&";
        let status = json!({
            "node": { "node_id": 1, "host": evil, "status": evil, "version": evil, "problems": [evil], "database": evil,
                "waits_for": evil, "last_error": evil },
            "streams": [{ "name": evil, "position": evil, "end": evil }],
            "waiting": { "set_aside": [{ "table": evil, "state": evil, "events": evil }] },
            "compared": { "equal": false, "text": evil, "time": evil },
            "snapshot": { "failure": evil, "unproven": evil, "stored_by": evil },
            "nodes": [{ "node_id": evil, "host": evil, "version": evil, "presence": evil }],
        });
        let page = page(&status);
        assert!(!page.contains("<script>alert") && !page.contains("\"'&"), "{page}");
        assert!(
            page.matches("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;").count() >= 14,
            "{page}"
        );
    }

    #[test]
    fn nothing_comes_from_elsewhere() {
        let page = page(&crate::operate::status::document(&crate::operate::status::tests::view("")));
        for outside in ["http://", "https://", "src=\"", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.len() < 12_000, "{} bytes", page.len());
    }
}
