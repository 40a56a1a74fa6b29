//! Escaping, and the few elements that the page repeats.

/// Escapes text for use between tags and in double-quoted attributes. Control characters other than white space are shown as
/// U+FFFD, for HTML has no way to write them.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(character),
            control if control.is_control() => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

/// A section with a heading; `body` is HTML.
pub(super) fn section(id: &str, title: &str, body: &str) -> String {
    format!("<section id=\"{id}\">\n<h2>{}</h2>\n{body}\n</section>\n", escape(title))
}

/// A paragraph of running text.
pub(super) fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escape(text))
}

/// A note in small print.
pub(super) fn note(text: &str) -> String {
    format!("<p class=\"note\">{}</p>\n", escape(text))
}

/// A table cell: class and HTML.
pub(super) struct Cell {
    pub(super) class: &'static str,
    pub(super) html: String,
    pub(super) is_header: bool,
}

impl Cell {
    /// A cell of text.
    pub(super) fn text(text: &str) -> Self {
        Self { class: "", html: escape(text), is_header: false }
    }

    /// A cell of text that names its row.
    pub(super) fn row_name(text: &str) -> Self {
        Self { is_header: true, ..Self::text(text) }
    }

    /// A cell of a number, set to the right.
    pub(super) fn number(text: &str) -> Self {
        Self { class: "num", ..Self::text(text) }
    }

    /// A cell of HTML.
    pub(super) fn html(class: &'static str, html: String) -> Self {
        Self { class, html, is_header: false }
    }
}

/// Columns from which a table may be wider than a telephone.
const WIDE_COLUMNS: usize = 4;

/// A table with column names and a caption. It scrolls in a box of its own where it is wider than the page, and says so.
pub(super) fn table(caption: &str, header: &[(&str, bool)], rows: &[Vec<Cell>]) -> String {
    let caption = escape(caption);
    let hint = if header.len() >= WIDE_COLUMNS { " <span class=\"hint\">&#8596; scrolls sideways</span>" } else { "" };
    let mut out = format!(
        "<p class=\"caption\">{caption}{hint}</p>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\"><table>\n<thead><tr>"
    );
    for (name, is_number) in header {
        let class = if *is_number { " class=\"num\"" } else { "" };
        out.push_str(&format!("<th scope=\"col\"{class}>{}</th>", escape(name)));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for cell in row {
            let class = if cell.class.is_empty() { String::new() } else { format!(" class=\"{}\"", cell.class) };
            let (tag, scope) = if cell.is_header { ("th", " scope=\"row\"") } else { ("td", "") };
            out.push_str(&format!("<{tag}{scope}{class}>{}</{tag}>", cell.html));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table></div>\n");
    out
}

/// A whole number with its thousands set apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A text that is hidden until the reader opens its summary line.
pub(super) fn details(summary: &str, text: &str) -> String {
    format!("<details><summary>{}</summary><pre>{}</pre></details>\n", escape(summary), escape(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_place() {
        assert_eq!(escape("<b a=\"x\" c='y'>&\u{0}\n"), "&lt;b a=&quot;x&quot; c=&#39;y&#39;&gt;&amp;\u{fffd}\n");
        let row =
            vec![Cell::row_name("<r>"), Cell::text("<i>"), Cell::number("1"), Cell::html("up", "<b>2</b>".into())];
        let table = table("<c>", &[("<h>", false), ("n", true)], &[row]);
        assert!(!table.contains("<c>") && !table.contains("<h>") && !table.contains("<i>") && !table.contains("<r>"));
        assert!(table.contains("<th scope=\"row\">&lt;r&gt;</th>") && table.contains("<td class=\"up\"><b>2</b></td>"));
    }

    #[test]
    fn thousands_are_set_apart() {
        let numbers = [0, 999, 1000, 12_345, 123_456, 1_442_173];
        assert_eq!(numbers.map(grouped), ["0", "999", "1,000", "12,345", "123,456", "1,442,173"]);
    }
}
