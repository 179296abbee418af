//! SVG plots: bars in small panels, and a curve. Each can be read alone: below it is what it was made from.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// A bar, with the ends of its rounds and, where there is one, a second value behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// Whose.
    pub name: String,
    /// The same number has the same colour everywhere.
    pub colour: usize,
    /// Its length.
    pub value: f64,
    /// Lowest and highest of the rounds.
    pub ends: (f64, f64),
    /// A paler bar behind it, such as p99 behind p50.
    pub behind: Option<f64>,
}

/// Some bars on one scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Above it.
    pub title: String,
    /// What is counted, beside its axis.
    pub unit: &'static str,
    /// How far up a value is.
    pub scale: Scale,
    /// From left to right.
    pub bars: Vec<Bar>,
}

/// How far up a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Twice as much is twice as far; zero is at the bottom.
    Linear,
    /// Ten times as much is always as far; the power of ten below the least value is at the bottom.
    Logarithmic,
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            // Nothing that is measured is less.
            Self::Logarithmic => value.max(1e-3).log10(),
        }
    }

    fn value(self, place: f64) -> f64 {
        match self {
            Self::Linear => place,
            Self::Logarithmic => 10f64.powf(place),
        }
    }

    /// Labels of an axis of this height: no more than one for each power of ten.
    fn labels_max(self, height: f64) -> usize {
        match self {
            Self::Linear => 5,
            Self::Logarithmic => height as usize + 1,
        }
    }

    /// The ends of an axis that has these values on it, and room above the highest for a number.
    fn ends(self, lowest: f64, highest: f64) -> (f64, f64) {
        match self {
            Self::Linear => (0.0, highest.max(f64::MIN_POSITIVE) * 1.25),
            Self::Logarithmic => {
                let bottom = self.place(lowest).floor();
                (bottom, self.place(highest).ceil().max(bottom + 1.0) + 0.4)
            }
        }
    }
}

const PANEL_PIXELS: (u32, u32) = (300, 190);
const PANELS_IN_A_ROW: usize = 3;
const TITLE_PIXELS: u32 = 34;
/// Told apart by colour-blind people too (Okabe and Ito).
pub(super) const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
];
const BAR_WIDTH: f64 = 0.7;
const NOTE_PIXELS: u32 = 10;
const NOTE_LINE_PIXELS: u32 = 14;

/// Panels between a title and a note. Each has its own axis.
///
/// # Errors
/// When the plot cannot be drawn.
pub fn panels(title: &str, panels: &[Panel], note: &str) -> Result<String> {
    let columns = panels.len().clamp(1, PANELS_IN_A_ROW);
    let rows = panels.len().div_ceil(columns).max(1);
    // A title and a note need their room though there is one panel.
    let width = PANEL_PIXELS.0 * columns.max(2) as u32;
    let note = wrapped(note, width);
    let height = PANEL_PIXELS.1 * rows as u32 + TITLE_PIXELS;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (width, height + note_pixels(&note))).into_drawing_area();
        root.fill(&WHITE).map_err(undrawn)?;
        let (body, below) = root.split_vertically(height);
        write_note(&below, &note)?;
        let body = body.titled(title, ("sans-serif", 18)).map_err(undrawn)?;
        for (area, panel) in body.split_evenly((rows, columns)).iter().zip(panels) {
            draw(area, panel)?;
        }
        root.present().map_err(undrawn)?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(area: &Area<'_>, panel: &Panel) -> Result<()> {
    let scale = panel.scale;
    let highest = panel.bars.iter().map(Bar::highest).fold(0.0, f64::max);
    let lowest = panel.bars.iter().map(|bar| bar.ends.0.min(bar.value)).fold(highest, f64::min);
    let (bottom, top) = scale.ends(lowest, highest);
    let count = panel.bars.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 13))
        .margin(6)
        .x_label_area_size(18)
        .y_label_area_size(54)
        .build_cartesian_2d(0.0..count.max(1.0), bottom..top)
        .map_err(undrawn)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_labels(scale.labels_max(top - bottom))
        .y_desc(panel.unit)
        .y_label_formatter(&|place| short(scale.value(*place)))
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 10))
        .draw()
        .map_err(undrawn)?;
    for (index, bar) in panel.bars.iter().enumerate() {
        let colour = COLOURS[bar.colour % COLOURS.len()];
        let middle = index as f64 + 0.5;
        let (left, right) = (middle - BAR_WIDTH / 2.0, middle + BAR_WIDTH / 2.0);
        let rectangle =
            |value: f64, style: ShapeStyle| Rectangle::new([(left, bottom), (right, scale.place(value))], style);
        if let Some(behind) = bar.behind {
            chart.draw_series([rectangle(behind, colour.mix(0.3).filled())]).map_err(undrawn)?;
        }
        chart.draw_series([rectangle(bar.value, colour.filled())]).map_err(undrawn)?;
        let ends = [bar.ends.0, bar.ends.1].map(|value| (middle, scale.place(value)));
        chart.draw_series([PathElement::new(ends, BLACK.stroke_width(1))]).map_err(undrawn)?;
        write_text(&chart, area, (middle, scale.place(bar.highest())), &label(bar), -14)?;
        write_text(&chart, area, (middle, bottom), &bar.name, 4)?;
    }
    Ok(())
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

/// Centred text, `down` pixels from a place in the chart.
fn write_text(chart: &Chart<'_, '_>, area: &Area<'_>, place: (f64, f64), text: &str, down: i32) -> Result<()> {
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    let (x, y) = chart.backend_coord(&place);
    let base = area.get_base_pixel();
    let style = TextStyle::from(("sans-serif", 10).into_font()).pos(Pos::new(HPos::Center, VPos::Top));
    area.draw(&Text::new(text.to_owned(), (x - base.0, y - base.1 + down), style)).map_err(undrawn)
}

impl Bar {
    fn highest(&self) -> f64 {
        self.ends.1.max(self.value).max(self.behind.unwrap_or(0.0))
    }
}

/// Lines of a note that fit into so many pixels: letters of this size are at most five wide on average.
pub(super) fn wrapped(note: &str, width_pixels: u32) -> Vec<String> {
    let letters_max = (width_pixels / 5) as usize;
    let mut lines: Vec<String> = Vec::new();
    for sentence in note.lines() {
        lines.push(String::new());
        for word in sentence.split(' ') {
            let line = lines.last_mut().expect("there is one");
            if line.is_empty() {
                line.push_str(word);
            } else if line.chars().count() + 1 + word.chars().count() <= letters_max {
                line.push(' ');
                line.push_str(word);
            } else {
                lines.push(word.to_owned());
            }
        }
    }
    lines
}

pub(super) fn note_pixels(lines: &[String]) -> u32 {
    NOTE_LINE_PIXELS * lines.len() as u32 + NOTE_LINE_PIXELS / 2
}

pub(super) fn write_note(area: &Area<'_>, lines: &[String]) -> Result<()> {
    for (index, line) in lines.iter().enumerate() {
        let place = (8, NOTE_LINE_PIXELS as i32 * index as i32);
        area.draw(&Text::new(line.clone(), place, ("sans-serif", NOTE_PIXELS))).map_err(undrawn)?;
    }
    Ok(())
}

fn label(bar: &Bar) -> String {
    bar.behind.map_or(short(bar.value), |behind| format!("{} / {}", short(bar.value), short(behind)))
}

/// A curve through points, each marked, above a note.
///
/// # Errors
/// When the plot cannot be drawn.
pub fn curve(title: &str, x_name: &str, y_name: &str, points: &[(f64, f64)], note: &str) -> Result<String> {
    let end = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).fold(1.0, f64::max) * 1.05;
    let (right, top) = (end(|point| point.0), end(|point| point.1));
    let (width, height) = (640, 360);
    let note = wrapped(note, width);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (width, height + note_pixels(&note))).into_drawing_area();
        root.fill(&WHITE).map_err(undrawn)?;
        let (body, below) = root.split_vertically(height);
        write_note(&below, &note)?;
        let mut chart = ChartBuilder::on(&body)
            .caption(title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..right, 0.0..top)
            .map_err(undrawn)?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(x_name).y_desc(y_name).light_line_style(TRANSPARENT);
        mesh.x_label_formatter(&|value| short(*value)).y_label_formatter(&|value| short(*value));
        mesh.draw().map_err(undrawn)?;
        chart.draw_series(LineSeries::new(points.iter().copied(), COLOURS[0].stroke_width(2))).map_err(undrawn)?;
        let dots = points.iter().map(|point| Circle::new(*point, 3, COLOURS[0].filled()));
        chart.draw_series(dots).map_err(undrawn)?;
        root.present().map_err(undrawn)?;
    }
    Ok(svg)
}

pub(super) fn undrawn(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw the plot: {error}")
}

/// A number in few letters: 1.2, 12, 123, 1.2k, 12k.
pub(super) fn short(value: f64) -> String {
    let (value, unit) = if value >= 1e6 {
        (value / 1e6, "M")
    } else if value >= 1e3 {
        (value / 1e3, "k")
    } else {
        (value, "")
    };
    let decimals = usize::from(value < 10.0 && value.fract() != 0.0);
    format!("{value:.decimals$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<Panel> {
        let bar = |name: &str, value: f64, behind| Bar {
            name: name.into(),
            colour: usize::from(name != "tail-nbd"),
            value,
            ends: (value * 0.9, value * 1.1),
            behind,
        };
        vec![
            Panel {
                title: "read-4k".into(),
                unit: "requests/s",
                scale: Scale::Linear,
                bars: vec![bar("tail-nbd", 200e3, None), bar("nbdkit", 50e3, None)],
            },
            Panel {
                title: "<latency> & more".into(),
                unit: "µs",
                scale: Scale::Logarithmic,
                bars: vec![bar("tail-nbd", 12.0, Some(40.0))],
            },
        ]
    }

    #[test]
    fn the_plot_is_the_golden_one() {
        let svg = panels("Requests a second", &example(), "commit 1234\non a machine").unwrap();
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/report/golden.svg");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(golden, &svg).unwrap();
        }
        assert_eq!(svg, std::fs::read_to_string(golden).unwrap(), "UPDATE_GOLDEN=1 writes the new one");
    }

    #[test]
    fn strange_data_still_make_a_plot() {
        assert!(panels("nothing", &[], "").unwrap().starts_with("<svg"));
        let zero = Bar { name: "zero".into(), colour: 9, value: 0.0, ends: (0.0, 0.0), behind: Some(0.0) };
        for scale in [Scale::Linear, Scale::Logarithmic] {
            let panel = |bars| Panel { title: "</svg>".into(), unit: "</svg>", scale, bars };
            let svg = panels("</svg>", &[panel(vec![]), panel(vec![zero.clone()])], "</svg>").unwrap();
            assert_eq!(svg.matches("</svg>").count(), 1, "text is escaped");
        }
        assert!(curve("memory", "discs", "MiB", &[], "").unwrap().starts_with("<svg"));
        let points = [(0.0, 20.0), (4000.0, 90.0)];
        assert_eq!(curve("memory", "discs", "MiB", &points, "").unwrap().matches("<circle").count(), 2);
    }

    #[test]
    fn a_note_fits_below_its_plot() {
        assert_eq!(wrapped("one two three\nfour", 50), ["one two", "three", "four"]);
        let long = "x".repeat(50);
        assert_eq!(wrapped(&long, 50), [long.as_str()], "a word is not cut");
    }

    #[test]
    fn numbers_are_short() {
        let numbers =
            [(0.0, "0"), (1.25, "1.2"), (12.3, "12"), (999.0, "999"), (5000.0, "5k"), (5100.0, "5.1k"), (2e6, "2M")];
        for (value, text) in numbers {
            assert_eq!(short(value), text);
        }
    }
}
