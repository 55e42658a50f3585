//! What S3 servers answer: errors and lists, in XML.

use crate::base::clock;
use crate::storage::Error;
use crate::storage::http::Response;
use roxmltree::Document;

/// An answer that is no success.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// S3's code, such as `NoSuchKey`; empty when the body held none.
    pub code: String,
    /// The server's explanation.
    pub message: String,
    /// The region that the server wants in the signature.
    pub region: Option<String>,
    /// The server's clock, Unix seconds.
    pub time: Option<i64>,
}

impl Refusal {
    /// Reads the answer to a request that failed.
    pub fn read(response: Response) -> Refusal {
        let status = response.status;
        let header =
            response.header("x-amz-bucket-region").filter(|region| is_region(region)).map(str::to_owned);
        let time = response.header("date").and_then(http_date);
        let text = response.text().unwrap_or_default();
        let mut refusal = Refusal::parse(&text).unwrap_or_default();
        refusal.status = status;
        refusal.region = header.or(refusal.region);
        refusal.time = time;
        refusal
    }

    /// Reads an error document; `None` when the text is another document, or none.
    pub fn parse(text: &str) -> Option<Refusal> {
        let document = Document::parse(text.trim_start_matches('\u{feff}').trim()).ok()?;
        let root = document.root_element();
        (root.tag_name().name() == "Error").then(|| Refusal {
            status: 200,
            code: child(root, "Code").unwrap_or_default(),
            message: child(root, "Message").unwrap_or_default(),
            region: child(root, "Region").filter(|region| is_region(region)),
            time: None,
        })
    }

    /// Whether the code is one of these.
    pub fn says(&self, codes: &[&str]) -> bool {
        codes.contains(&self.code.as_str())
    }

    /// As an error of the store.
    pub fn error(&self) -> Error {
        let mut text = format!("http {}", self.status);
        if !self.code.is_empty() {
            text = format!("{text} {}", shown(&self.code));
        }
        if !self.message.is_empty() {
            text = format!("{text} ({})", shown(&self.message).trim().trim_end_matches('.'));
        }
        if let (301 | 307 | 400, Some(region)) = (self.status, &self.region) {
            text = format!("{text}: the bucket's region is {region} (snapshot.s3.region)");
        }
        let transient = matches!(self.status, 408 | 409 | 412 | 425 | 429 | 500..)
            || self.says(&[
                "SlowDown",
                "RequestTimeout",
                "InternalError",
                "ServiceUnavailable",
                "NoSuchUpload",
            ]);
        if transient { Error::Transient(text) } else { Error::Permanent(text) }
    }
}

/// A text of the server in one line of a message.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Whether a text may be a region: it becomes a part of a host's name, and of what is signed.
fn is_region(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(plain)
}

fn child(node: roxmltree::Node<'_, '_>, name: &str) -> Option<String> {
    let found = node.children().find(|child| child.tag_name().name() == name)?;
    Some(found.text().unwrap_or_default().to_owned())
}

/// For every element named `item`, the texts of its children named in `fields`: empty for a child that is missing.
pub fn items(text: &str, item: &str, fields: &[&str]) -> Result<Vec<Vec<String>>, Error> {
    let document =
        Document::parse(text).map_err(|error| Error::Transient(format!("unreadable list: {error}")))?;
    let found = document.descendants().filter(|node| node.tag_name().name() == item);
    Ok(found
        .map(|node| fields.iter().map(|field| child(node, field).unwrap_or_default()).collect())
        .collect())
}

/// The text of a child of the document's root, such as `UploadId`.
pub fn root_text(text: &str, name: &str) -> Option<String> {
    let document = Document::parse(text).ok()?;
    child(document.root_element(), name).filter(|found| !found.is_empty())
}

pub fn xml_escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// `Tue, 24 Nov 2026 13:15:00 GMT` as Unix seconds.
fn http_date(text: &str) -> Option<i64> {
    let (_, rest) = text.split_once(", ")?;
    let mut parts = rest.split([' ', ':', '-']);
    let day: i64 = parts.next()?.parse().ok()?;
    let month = parts.next()?;
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = i64::try_from(names.iter().position(|name| *name == month)?).ok()? + 1;
    let year: i64 = parts.next()?.parse().ok()?;
    let mut clock = || parts.next()?.parse::<i64>().ok();
    let (hour, minute, second) = (clock()?, clock()?, clock()?);
    if !(0..24).contains(&hour) || !(0..60).contains(&minute) || !(0..61).contains(&second) {
        return None;
    }
    clock::unix_seconds(year, month, day).map(|day| day + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        let text = "<?xml version=\"1.0\"?><Error><Code>AuthorizationHeaderMalformed</Code><Message>a &lt; b.\n</Message><Region>eu-1</Region></Error>";
        let refusal = Refusal { status: 400, ..Refusal::parse(text).unwrap() };
        assert_eq!(refusal.region.as_deref(), Some("eu-1"));
        assert_eq!(
            refusal.error().to_string(),
            "http 400 AuthorizationHeaderMalformed (a < b): the bucket's region is eu-1 (snapshot.s3.region)"
        );
        assert!(matches!(refusal.error(), Error::Permanent(_)));
        for (status, transient) in
            [(403, false), (404, false), (409, true), (412, true), (429, true), (503, true)]
        {
            let error = Refusal { status, ..Refusal::default() }.error();
            assert_eq!(matches!(error, Error::Transient(_)), transient, "{status}");
        }
        for region in ["", "x/y", "evil.example/?", "u@h", "a b", &"x".repeat(65)] {
            let text = format!("<Error><Code>c</Code><Region>{region}</Region></Error>");
            assert_eq!(Refusal::parse(&text).unwrap().region, None, "{region}");
        }
        assert_eq!(Refusal::parse("<html>"), None);
        assert_eq!(Refusal::parse("<ListBucketResult/>"), None);
    }

    #[test]
    fn lists_and_dates() {
        let text = "<R xmlns=\"http://s3/\"><Contents><Key>a</Key><Size>1</Size></Contents><Contents><Key>b</Key></Contents></R>";
        assert_eq!(items(text, "Contents", &["Key", "Size"]).unwrap(), [["a", "1"], ["b", ""]]);
        assert_eq!(http_date("Tue, 24 Nov 2026 13:15:00 GMT"), Some(1_795_526_100));
        assert_eq!(http_date("yesterday"), None);
        for clock in [
            "24:00:00",
            "-1:00:00",
            "00:60:00",
            "00:00:61",
            "00:00:-1",
            "9223372036854775807:0:0",
            "0:9223372036854775807:0",
        ] {
            assert_eq!(http_date(&format!("Tue, 24 Nov 2026 {clock} GMT")), None, "{clock}");
        }
    }

    #[test]
    fn codes_say_more_than_a_status() {
        for code in ["SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "NoSuchUpload"] {
            let refusal = Refusal { status: 400, code: code.into(), ..Refusal::default() };
            assert!(refusal.says(&[code]) && matches!(refusal.error(), Error::Transient(_)), "{code}");
        }
    }

    #[test]
    fn a_message_cannot_break_a_line_or_fill_a_log() {
        let refusal =
            Refusal { status: 403, message: format!("a\nb{}", "x".repeat(500)), ..Refusal::default() };
        let text = refusal.error().to_string();
        assert!(text.starts_with("http 403 (abx") && text.len() < 220 && !text.contains('\n'), "{text}");
        let long = format!("a\nb{}", "x".repeat(100_000));
        let document =
            format!("<Error><Code>{long}</Code><Message>{long}</Message><Region>{long}</Region></Error>");
        let text = Refusal { status: 400, ..Refusal::parse(&document).unwrap() }.error().to_string();
        assert!(text.len() < 700 && !text.contains('\n'), "{text}");
    }

    #[test]
    fn texts_of_documents() {
        assert_eq!(root_text("<R><UploadId>u</UploadId></R>", "UploadId").as_deref(), Some("u"));
        assert_eq!(root_text("<R><UploadId></UploadId></R>", "UploadId"), None);
        assert_eq!(root_text("no document", "UploadId"), None);
        assert!(matches!(items("no document", "Contents", &["Key"]), Err(Error::Transient(_))));
        assert_eq!(xml_escape("a<b>&\"c\""), "a&lt;b&gt;&amp;&quot;c&quot;");
    }
}
