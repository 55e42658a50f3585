//! Messages without repetition: a warning that would come with every try is logged only when it says something new.

/// Remembers the last message.
#[derive(Debug, Default)]
pub struct Once(String);

impl Once {
    /// Whether a text differs from the last one. Numbers of four digits and more and durations are not compared: positions, sizes
    /// and times change while the trouble stays the same.
    pub fn is_news(&mut self, text: &str) -> bool {
        let bare = without_durations(&without_large_numbers(text));
        let news = bare != self.0;
        self.0 = bare;
        news
    }

    /// Logs a warning that is news.
    pub fn warn(&mut self, text: &str) {
        if self.is_news(text) {
            log::warn!("{text}");
        }
    }

    /// Forgets the last message, when all is well again: whatever comes next is news.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}

/// `1.2 s` and `300 ms` lose their numbers.
fn without_durations(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut words = text.split(' ').peekable();
    while let Some(word) = words.next() {
        let unit = words.peek().map(|next| next.trim_end_matches(|c: char| c.is_ascii_punctuation()));
        let is_duration = matches!(unit, Some("s" | "ms")) && word.parse::<f64>().is_ok();
        out.push_str(if is_duration { "#" } else { word });
        out.push(' ');
    }
    out
}

fn without_large_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut digits = String::new();
    // The end of the text ends a number like any other character.
    for character in text.chars().map(Some).chain([None]) {
        if let Some(digit) = character.filter(char::is_ascii_digit) {
            digits.push(digit);
            continue;
        }
        out.push_str(if digits.len() < 4 { &digits } else { "#" });
        digits.clear();
        out.extend(character);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news() {
        let mut once = Once::default();
        assert!(once.is_news("messages 51 to 1880 are gone"));
        assert!(!once.is_news("messages 51 to 20931 are gone"));
        assert!(once.is_news("http 503") && once.is_news("http 403") && !once.is_news("http 403"));
        once.forget();
        assert!(once.is_news("http 403"));
        assert!(once.is_news("HEAD: refused (after 5 tries, 1.2 s); trying again"));
        assert!(!once.is_news("HEAD: refused (after 5 tries, 14.0 s); trying again"));
        assert!(once.is_news("HEAD: refused (after 4 tries, 14.0 s); trying again"));
    }

    #[test]
    fn durations_are_left_out() {
        assert_eq!(without_durations("no answer within 500 ms, port 22"), "no answer within # ms, port 22 ");
        assert_eq!(without_durations("127.0.0.1 says: 5 tries"), "127.0.0.1 says: 5 tries ");
    }

    #[test]
    fn only_large_numbers_are_left_out() {
        assert_eq!(
            without_large_numbers("http 503 after 1024 of 20480 bytes"),
            "http 503 after # of # bytes"
        );
        assert_eq!(without_large_numbers("999 1000"), "999 #");
        assert_eq!(without_large_numbers(""), "");
    }
}
