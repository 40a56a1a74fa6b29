//! Where requests go, and what of it may be shown.

use ureq::http::Uri;

/// The address of chat completions. The part between `://` and `@` and the query may hold secrets; they are never shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Where requests go.
    pub(super) url: String,
    /// The same without secrets.
    pub(super) shown: String,
    /// The base address without secrets, for names.
    pub(super) shown_base: String,
    /// Whether the base address has a path, such as `/v1`.
    pub(super) has_path: bool,
}

const PATH: &str = "/chat/completions";

impl Address {
    /// Takes a base address, such as `http://localhost:8000/v1`, or that of the completions themselves; a query is kept.
    ///
    /// # Errors
    /// What is wrong with it, beside the base address without secrets.
    pub(super) fn new(base: &str) -> Result<Address, (String, &'static str)> {
        let base = base.trim();
        let base = base.split_once('#').map_or(base, |(base, _)| base);
        let (path, query) = base.split_once('?').map_or((base, ""), |(path, query)| (path, query));
        let path = path.trim_end_matches('/');
        let path = path.strip_suffix(PATH).unwrap_or(path);
        let shown_base = without_credentials(path);
        if !path.starts_with("http://") && !path.starts_with("https://") {
            return Err((shown_base, "it does not begin with http:// or https://"));
        }
        let mark = if query.is_empty() { "" } else { "?" };
        let url = format!("{path}{PATH}{mark}{query}");
        if !url.parse::<Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty())) {
            return Err((shown_base, "it is no URL with a host"));
        }
        let has_path = shown_base.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
        Ok(Address { url, shown: format!("{shown_base}{PATH}"), shown_base, has_path })
    }
}

fn without_credentials(path: &str) -> String {
    let (scheme, rest) = path.split_once("://").unwrap_or(("", path));
    let end = rest.find('/').unwrap_or(rest.len());
    // Up to the last `@`: a password may hold one, and a slash that is not escaped.
    let from = rest[..end].rfind('@').or_else(|| rest.rfind('@')).map_or(0, |at| at + 1);
    let mark = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{mark}{}", &rest[from..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_added_before_the_query_and_secrets_are_not_shown() {
        for (base, url, shown) in [
            ("http://h:1/v1", "http://h:1/v1/chat/completions", "http://h:1/v1/chat/completions"),
            (" http://h:1/v1/ ", "http://h:1/v1/chat/completions", "http://h:1/v1/chat/completions"),
            ("http://h/v1/chat/completions", "http://h/v1/chat/completions", "http://h/v1/chat/completions"),
            ("http://h/v1/chat/completions/?a=b", "http://h/v1/chat/completions?a=b", "http://h/v1/chat/completions"),
            ("https://me:s3@h/v1", "https://me:s3@h/v1/chat/completions", "https://h/v1/chat/completions"),
            (
                "https://h/d?api-version=2&k=s3#x",
                "https://h/d/chat/completions?api-version=2&k=s3",
                "https://h/d/chat/completions",
            ),
        ] {
            let address = Address::new(base).expect(base);
            assert_eq!((address.url.as_str(), address.shown.as_str()), (url, shown));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_secrets() {
        for base in
            ["file:///etc/passwd", "me:s3@h/v1", "http://", "http://me:s3@", "http://me:s3/4@h h/v1", "", "http:// h"]
        {
            let (shown, _) = Address::new(base).expect_err(base);
            assert!(!shown.contains("s3"), "{base} gave {shown}");
        }
    }
}
