//! Curves over seconds, as SVG.

use anyhow::anyhow;
use plotters::prelude::*;

const SIZE: (u32, u32) = (900, 320);
const COLOURS: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(23, 190, 207),
    RGBColor(227, 119, 194),
    RGBColor(127, 127, 127),
];
/// A curve is drawn as the lowest and the highest point of so many slices: more are not seen, and no peak is lost.
const SLICES: usize = 300;
/// Marks that are written; more would cover the curves.
const MARKS_MAX: usize = 40;
/// Lines on which marks are written in turn, so that neighbours do not overlap.
const MARK_LINES: usize = 5;

/// One picture: curves that share a unit.
#[derive(Clone, Debug)]
pub struct Chart {
    title: String,
    unit: String,
    curves: Vec<Curve>,
    limits: Vec<(String, f64)>,
    phases: Vec<(String, f64, f64)>,
    marks: Vec<(f64, String)>,
}

#[derive(Clone, Debug)]
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Chart {
    /// `unit` is written beside the vertical axis; it starts at 0.
    pub fn new(title: impl Into<String>, unit: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            unit: unit.into(),
            curves: Vec::new(),
            limits: Vec::new(),
            phases: Vec::new(),
            marks: Vec::new(),
        }
    }

    /// Points (seconds, value) in order of time, joined by straight lines. What is not finite is left out.
    #[must_use]
    pub fn curve(mut self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let finite = |point: &(f64, f64)| point.0.is_finite() && point.1.is_finite();
        self.curves.push(Curve {
            name: name.into(),
            points: points.into_iter().filter(finite).collect(),
        });
        self
    }

    /// As [`Self::curve`], for a value that holds until the next point.
    #[must_use]
    pub fn steps(self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut stairs: Vec<(f64, f64)> = Vec::new();
        for (at, value) in points {
            stairs.extend(stairs.last().map(|(_, held)| (at, *held)));
            stairs.push((at, value));
        }
        self.curve(name, stairs)
    }

    /// A line across at one value, such as a goal or a capacity.
    #[must_use]
    pub fn limit(mut self, name: impl Into<String>, value: f64) -> Self {
        self.limits.push((name.into(), value));
        self
    }

    /// What happened between two moments, in seconds.
    #[must_use]
    pub fn phase(mut self, name: impl Into<String>, from: f64, to: f64) -> Self {
        self.phases.push((name.into(), from, to));
        self
    }

    /// A word at a moment, such as the reason of a decision. The first 40 are written.
    #[must_use]
    pub fn mark(mut self, at: f64, text: impl Into<String>) -> Self {
        if self.marks.len() < MARKS_MAX {
            self.marks.push((at, text.into()));
        }
        self
    }

    /// The name of its file, from its title.
    pub fn stem(&self) -> String {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        };
        let words: String = self.title.chars().map(plain).collect();
        let words: Vec<&str> = words.split('-').filter(|word| !word.is_empty()).collect();
        words.join("-")
    }

    /// A whole SVG document.
    ///
    /// # Errors
    /// What the drawing library says.
    pub fn svg(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        self.draw(&mut text)
            .map_err(|error| anyhow!("cannot draw {:?}: {error}", self.title))?;
        Ok(text)
    }

    fn points(&self) -> impl Iterator<Item = &(f64, f64)> {
        self.curves.iter().flat_map(|curve| &curve.points)
    }

    fn draw(&self, text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let ends = self.points().map(|(at, _)| *at);
        let ends = ends.chain(self.phases.iter().map(|(.., to)| *to));
        let length = ends.fold(1.0, f64::max);
        let values = self.points().map(|(_, value)| *value);
        let most = values
            .chain(self.limits.iter().map(|(_, value)| *value))
            .fold(0.0, f64::max);
        // Air above the highest point; an axis of no height cannot be drawn.
        let most = if most > 0.0 { most * 1.12 } else { 1.0 };
        let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(32)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..length, 0.0..most)?;
        let shaded = self.phases.iter().enumerate().filter(|(at, _)| at % 2 == 1);
        chart.draw_series(shaded.map(|(_, (_, from, to))| {
            Rectangle::new([(*from, 0.0), (*to, most)], RGBColor(0, 0, 0).mix(0.05).filled())
        }))?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("seconds")
            .y_desc(&self.unit)
            .draw()?;
        chart.draw_series(self.phases.iter().map(|(name, from, _)| {
            let place = (from + length * 0.004, most * 0.995);
            let style = ("sans-serif", 11).into_font().color(&BLACK.mix(0.6));
            Text::new(name.clone(), place, style)
        }))?;
        for (curve, colour) in self.curves.iter().zip(COLOURS.iter().cycle()) {
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(thinned(&curve.points), style))?
                .label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        for (name, value) in &self.limits {
            let line = [(0.0, *value), (length, *value)];
            chart
                .draw_series(DashedLineSeries::new(line, 6, 4, RED.mix(0.7).stroke_width(1)))?
                .label(name)
                .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], RED.mix(0.7)));
        }
        chart.draw_series(self.marks.iter().enumerate().map(|(number, (at, word))| {
            let height = most * (0.92 - 0.05 * (number % MARK_LINES) as f64);
            let style = ("sans-serif", 9).into_font().color(&RED);
            Text::new(word.clone(), (*at, height), style)
        }))?;
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .label_font(("sans-serif", 11))
            .draw()?;
        root.present()?;
        Ok(())
    }
}

/// The lowest and the highest point of each slice, in order of time.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= SLICES * 2 {
        return points.to_vec();
    }
    let slice = points.len().div_ceil(SLICES);
    let mut kept = Vec::with_capacity(SLICES * 2);
    for slice in points.chunks(slice) {
        let value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (low, high) = (slice.iter().min_by(value), slice.iter().max_by(value));
        let (Some(low), Some(high)) = (low, high) else {
            continue;
        };
        let (first, second) = if low.0 <= high.0 { (low, high) } else { (high, low) };
        kept.push(*first);
        if first != second {
            kept.push(*second);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_survives_thinning() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|at| (f64::from(at), 1.0)).collect();
        points[54_321].1 = 99.0;
        let kept = thinned(&points);
        assert!(kept.len() <= SLICES * 2, "{}", kept.len());
        assert!(kept.contains(&(54_321.0, 99.0)));
        assert!(kept.is_sorted_by(|a, b| a.0 <= b.0));
    }

    #[test]
    fn a_value_holds_until_the_next() {
        let chart = Chart::new("caps", "slots").steps("cap", [(0.0, 4.0), (5.0, 8.0)]);
        assert_eq!(chart.curves[0].points, [(0.0, 4.0), (5.0, 4.0), (5.0, 8.0)]);
    }

    #[test]
    fn everything_is_in_the_picture_and_nothing_breaks_out_of_it() {
        let chart = Chart::new("latency <p99>", "ms")
            .curve(
                "p99 & p50",
                [(0.0, 1.0), (f64::NAN, 2.0), (9.0, f64::INFINITY), (2.0, 3.0)],
            )
            .limit("goal", 50.0)
            .phase("peak", 0.0, 10.0)
            .mark(1.0, "CUT<script>");
        let svg = chart.svg().expect("it can be drawn");
        assert!(
            svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"),
            "{svg}"
        );
        assert!(svg.contains("<polyline"), "{svg}");
        for word in [
            "goal",
            "peak",
            "CUT&lt;script&gt;",
            "p99 &amp; p50",
            "latency &lt;p99&gt;",
        ] {
            assert!(svg.contains(word), "{word} in {svg}");
        }
        assert_eq!(chart.stem(), "latency-p99");
    }

    #[test]
    fn an_empty_one_can_be_drawn() {
        assert!(Chart::new("nothing", "jobs").curve("none", []).svg().is_ok());
    }
}
