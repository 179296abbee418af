//! For people: plain text, names to the left, no boxes.

use super::{Page, printable, table::fitted};
use comfy_table::presets;

/// The page as text.
pub fn render(page: &Page) -> String {
    match page {
        Page::Raw(text) => text.clone(),
        Page::Text(text) => format!("{}\n", printable(text)),
        Page::Facts(facts) => {
            let rows: Vec<_> = facts.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]).collect();
            format!("{}\n", plain(&[], &rows))
        }
        Page::List { title, headers, rows, none } => {
            let heading = title.map(|title| format!("{title}:\n")).unwrap_or_default();
            if rows.is_empty() {
                return format!("{heading}{none}\n");
            }
            format!("{heading}{}\n", plain(headers, rows))
        }
        Page::Several(pages) => pages.iter().map(render).collect::<Vec<_>>().join("\n"),
    }
}

/// Without lines, the spaces that pad the last column, and the one before the first.
fn plain(headers: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = fitted(headers, rows);
    table.load_style(presets::NOTHING);
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect();
    lines.join("\n")
}
