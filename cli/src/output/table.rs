//! Boxed tables that fit the terminal, or `COLUMNS`.

use super::{Page, one_line, printable};
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};

/// The narrowest table that is tried.
const COLUMNS_MIN: u16 = 20;

/// The page as tables.
pub fn render(page: &Page) -> String {
    match page {
        Page::Raw(text) => text.clone(),
        Page::Text(text) => format!("{}\n", printable(text)),
        Page::Facts(facts) => {
            let rows: Vec<Vec<String>> =
                facts.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]).collect();
            format!("{}\n", boxed(&["field", "value"], &rows))
        }
        Page::List { title, headers, rows, .. } => {
            let heading = title.map(|title| format!("{title}:\n")).unwrap_or_default();
            format!("{heading}{}\n", boxed(headers, rows))
        }
        Page::Several(pages) => pages.iter().map(render).collect::<Vec<_>>().join("\n"),
    }
}

fn boxed(headers: &[&str], rows: &[Vec<String>]) -> Table {
    let mut table = fitted(headers, rows);
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table
}

/// A table that wraps its cells rather than its lines. Without headers it begins with its rows.
pub fn fitted(headers: &[&str], rows: &[Vec<String>]) -> Table {
    let mut table = Table::new();
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(columns) = std::env::var("COLUMNS").ok().and_then(|text| text.parse::<u16>().ok()) {
        table.set_width(columns.max(COLUMNS_MIN));
    }
    if !headers.is_empty() {
        table.set_header(headers);
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| one_line(cell)));
    }
    // A name that is broken in two cannot be copied, unless it is too long for anything else.
    let name_width = rows.iter().filter_map(|row| row.first()).map(|name| name.chars().count()).max();
    let fits = table.width().is_none_or(|width| name_width.unwrap_or(0) <= usize::from(width) / 2);
    if let Some(names) = table.column_mut(0).filter(|_| fits) {
        names.set_constraint(ColumnConstraint::ContentWidth);
    }
    table
}
