//! For people: plain text, names to the left, no boxes.

use super::{Page, one_line, printable};
use comfy_table::{Table, presets};

/// The page as text.
pub fn render(page: &Page) -> String {
    match page {
        Page::Raw(text) => text.clone(),
        Page::Text(text) => format!("{}\n", printable(text)),
        Page::Facts(facts) => {
            let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
            facts.iter().map(|(name, value)| format!("{name:width$}  {}\n", one_line(value))).collect()
        }
        Page::List { title, headers, rows, none } => {
            let heading = title.map(|title| format!("{title}:\n")).unwrap_or_default();
            if rows.is_empty() {
                return format!("{heading}{none}\n");
            }
            let mut table = super::table::fitted(headers, rows);
            table.load_style(presets::NOTHING);
            format!("{heading}{}\n", trimmed(&table))
        }
        Page::Several(pages) => pages.iter().map(render).collect::<Vec<_>>().join("\n"),
    }
}

/// Without the spaces that pad the last column, and the one before the first.
fn trimmed(table: &Table) -> String {
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect();
    lines.join("\n")
}
