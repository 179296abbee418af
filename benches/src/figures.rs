//! What was measured, against what is wanted; no I/O.

use crate::report::table::markdown;
use serde::Serialize;

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// What is wanted; none for a figure that only explains others.
    pub bar: Option<Bar>,
}

/// What is wanted of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bar {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Figure {
    /// A figure without a bar.
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, bar: None }
    }

    /// The same with a bar.
    pub fn with(self, bar: Bar) -> Self {
        Self { bar: Some(bar), ..self }
    }

    /// Whether the bar is met; none without one.
    pub fn is_met(&self) -> Option<bool> {
        self.bar.map(|bar| match bar {
            Bar::AtMost(most) => self.value <= most,
            Bar::AtLeast(least) => self.value >= least,
        })
    }
}

/// True when every bar is met.
pub fn all_met(figures: &[Figure]) -> bool {
    figures.iter().all(|figure| figure.is_met() != Some(false))
}

/// For people.
pub fn table(figures: &[Figure]) -> String {
    let row = |figure: &Figure| {
        let bar = match figure.bar {
            Some(Bar::AtMost(most)) => format!("≤ {}", number(most)),
            Some(Bar::AtLeast(least)) => format!("≥ {}", number(least)),
            None => String::new(),
        };
        let met = figure.is_met().map_or("", |met| if met { "met" } else { "not met" });
        vec![figure.name.clone(), number(figure.value), figure.unit.to_owned(), bar, met.to_owned()]
    };
    let rows: Vec<_> = figures.iter().map(row).collect();
    markdown(&["figure", "measured", "unit", "bar", ""], &rows, 1)
}

fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        value if value < 1.0 => 3,
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_up_to_itself() {
        let figure = |value, bar| Figure::new("x", value, "s").with(bar).is_met();
        assert_eq!(figure(5.0, Bar::AtMost(5.0)), Some(true));
        assert_eq!(figure(5.1, Bar::AtMost(5.0)), Some(false));
        assert_eq!(figure(0.8, Bar::AtLeast(0.8)), Some(true));
        assert_eq!(figure(0.79, Bar::AtLeast(0.8)), Some(false));
        assert_eq!(Figure::new("x", 1.0, "s").is_met(), None);
    }

    #[test]
    fn the_table_names_what_is_not_met() {
        let good = Figure::new("memory", 7.25, "KiB").with(Bar::AtMost(24.0));
        let bad = Figure::new("start", 6.0, "s").with(Bar::AtMost(5.0));
        let plain = Figure::new("discs", 4000.0, "");
        assert!(all_met(&[good.clone(), plain.clone()]));
        let all = [good, bad, plain];
        assert!(!all_met(&all));
        let table = table(&all);
        let line = |name: &str| table.lines().find(|line| line.contains(name)).unwrap().to_owned();
        assert!(
            line("memory").contains("7.25") && line("memory").contains("≤ 24.0") && !line("memory").contains("not")
        );
        assert!(line("start").contains("not met"), "{table}");
        assert!(line("discs").contains("4000"), "{table}");
    }
}
