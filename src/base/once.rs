//! What is said once: a warning that would come with every try is logged when it is news.

/// The last thing that was said.
#[derive(Debug, Default)]
pub struct Once(String);

impl Once {
    /// Whether a text is another one than the last. Numbers of four digits and more do not count: positions and bytes
    /// change while all else stays as it was.
    pub fn is_news(&mut self, text: &str) -> bool {
        let bare = without_large_numbers(text);
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

    /// All is well: whatever comes next is news.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}

fn without_large_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut digits = String::new();
    for character in text.chars().chain(['\0']) {
        if character.is_ascii_digit() {
            digits.push(character);
            continue;
        }
        out.push_str(if digits.len() < 4 { &digits } else { "#" });
        digits.clear();
        out.push(character);
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
    }
}
