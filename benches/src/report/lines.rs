//! SVG plots of curves over time: with marks where something begins, and a level that is not to be crossed.

use super::plot::{COLOURS, note_pixels, short, undrawn, wrapped, write_note};
use anyhow::Result;
use plotters::prelude::*;

/// A curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// In the legend.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// A plot of curves that share their axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Lines {
    /// Above it.
    pub title: String,
    /// What goes to the right.
    pub x_name: &'static str,
    /// What goes up.
    pub y_name: &'static str,
    /// In the order of the legend.
    pub curves: Vec<Curve>,
    /// Where something begins, and what.
    pub marks: Vec<(f64, String)>,
    /// A height that is not to be crossed.
    pub level: Option<f64>,
}

const PIXELS: (u32, u32) = (720, 340);
/// Labels of marks that are closer than this share of the width go below each other.
const LABEL_SHARE: f64 = 0.09;
const LABEL_ROWS: usize = 6;

/// Draws one above a note.
///
/// # Errors
/// When it cannot be drawn.
pub fn draw(lines: &Lines, note: &str) -> Result<String> {
    let points = || lines.curves.iter().flat_map(|curve| &curve.points);
    let right = points().map(|point| point.0).chain(lines.marks.iter().map(|mark| mark.0)).fold(0.1, f64::max) * 1.03;
    let top = points().map(|point| point.1).chain(lines.level).fold(f64::MIN_POSITIVE, f64::max) * 1.3;
    let (width, height) = PIXELS;
    let note = wrapped(note, width);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (width, height + note_pixels(&note))).into_drawing_area();
        root.fill(&WHITE).map_err(undrawn)?;
        let (body, below) = root.split_vertically(height);
        write_note(&below, &note)?;
        let mut chart = ChartBuilder::on(&body)
            .caption(&lines.title, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(34)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..right, 0.0..top)
            .map_err(undrawn)?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(lines.x_name).y_desc(lines.y_name).light_line_style(TRANSPARENT);
        mesh.x_label_formatter(&|value| short(*value)).y_label_formatter(&|value| short(*value));
        mesh.draw().map_err(undrawn)?;
        for (row, (at, name)) in rows(&lines.marks, right).into_iter().zip(&lines.marks) {
            let line = [(*at, 0.0), (*at, top)];
            chart.draw_series([PathElement::new(line, BLACK.mix(0.25).stroke_width(1))]).map_err(undrawn)?;
            if let Some(row) = row {
                let place = (*at, top * (1.0 - 0.035 * row as f64));
                chart.draw_series([Text::new(format!(" {name}"), place, ("sans-serif", 10))]).map_err(undrawn)?;
            }
        }
        if let Some(level) = lines.level {
            let line = [(0.0, level), (right, level)];
            chart.draw_series([PathElement::new(line, RED.mix(0.7).stroke_width(1))]).map_err(undrawn)?;
        }
        for (nth, curve) in lines.curves.iter().enumerate() {
            let colour = COLOURS[nth % COLOURS.len()];
            let series = LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2));
            let drawn = chart.draw_series(series).map_err(undrawn)?;
            drawn.label(&curve.name).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
        }
        if lines.curves.len() > 1 {
            let mut legend = chart.configure_series_labels();
            legend.position(SeriesLabelPosition::UpperRight).label_font(("sans-serif", 11));
            legend.background_style(WHITE.mix(0.8)).draw().map_err(undrawn)?;
        }
        root.present().map_err(undrawn)?;
    }
    Ok(svg)
}

/// In which row the label of each mark is written, so that neighbours do not cover each other; none where there is no room.
fn rows(marks: &[(f64, String)], right: f64) -> Vec<Option<usize>> {
    let mut ends = [f64::NEG_INFINITY; LABEL_ROWS];
    let row = |(at, _): &(f64, String)| {
        let free = ends.iter().position(|end| end <= at)?;
        ends[free] = at + right * LABEL_SHARE;
        Some(free)
    };
    marks.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_marks_and_level_are_drawn_and_text_is_escaped() {
        let curve = |name: &str, points: &[(f64, f64)]| Curve { name: name.into(), points: points.to_vec() };
        let mut lines = Lines {
            title: "</svg>".into(),
            x_name: "seconds",
            y_name: "MB/s",
            curves: vec![curve("a", &[(0.0, 1.0), (2.0, 60.0)]), curve("b", &[(1.0, 3.0)])],
            marks: vec![(0.5, "copying".into()), (0.6, "</svg>".into())],
            level: Some(52.5),
        };
        let svg = draw(&lines, "a note").unwrap();
        assert_eq!(svg.matches("</svg>").count(), 1);
        for text in ["copying", "a note", "MB/s", "seconds"] {
            assert!(svg.contains(text), "{text}");
        }
        (lines.curves, lines.marks, lines.level) = (vec![], vec![], None);
        assert!(draw(&lines, "").unwrap().starts_with("<svg"), "nothing is a plot too");
    }

    #[test]
    fn labels_that_are_close_get_rows_of_their_own() {
        let marks = [0.0, 0.1, 0.2, 5.0].map(|at| (at, String::new()));
        assert_eq!(rows(&marks, 10.0), [Some(0), Some(1), Some(2), Some(0)]);
        let crowd = vec![(1.0, String::new()); LABEL_ROWS + 1];
        assert_eq!(rows(&crowd, 10.0).last(), Some(&None), "there is no room for one more");
    }
}
