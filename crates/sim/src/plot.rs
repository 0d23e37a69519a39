//! A run as a picture: load, caps, running jobs, what was found of the resource, and the reasons of decisions as marks.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

use crate::{
    run::{Outcome, Setup, Tick, run},
    scenario::Scenario,
};

const SIZE: (u32, u32) = (900, 420);
const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(23, 190, 207),
];
/// Points of a curve: more are not seen.
const POINTS: usize = 240;
/// Reasons that are no news.
const QUIET: [&str; 7] = [
    "",
    "DEMAND",
    "HYSTERESIS",
    "HARD_CAP",
    "FLOOR",
    "COLD",
    "IDLE_DECAY",
];
/// Reasons that are written; the others would overlap.
const MARKS_MAX: usize = 60;

/// Runs the scenario and draws it; gives the file.
pub fn draw(scenario: &Scenario, strategy: &str, setup: &Setup, folder: &Path) -> Result<PathBuf> {
    let outcome = run(scenario, strategy, setup)?;
    let name: String = scenario
        .name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    let path = folder.join(format!("{}.svg", name.trim_matches('-').replace("--", "-")));
    picture(scenario, strategy, setup, &outcome, &path)
        .map_err(|error| anyhow!("{error}"))
        .with_context(|| format!("cannot draw {}", path.display()))?;
    Ok(path)
}

fn picture(
    scenario: &Scenario,
    strategy: &str,
    setup: &Setup,
    outcome: &Outcome,
    path: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let running: Vec<(f64, f64)> = outcome
        .meter
        .seconds
        .iter()
        .enumerate()
        .map(|(at, second)| (at as f64, second.running))
        .collect();
    let capacity = series(outcome, |tick| {
        number(tick, "capacity").map(|units| units.min(200.0))
    });
    let caps = (0..scenario.queues.len())
        .map(|at| steps(outcome, at))
        .collect::<Vec<_>>();
    let lines = caps.iter().flatten().chain(&running);
    let most = lines.map(|(_, value)| *value).fold(1.0, f64::max) * 1.15;
    let title = format!(
        "{} ({strategy}, seed {}, tick {} s)",
        scenario.name, setup.seed, setup.tick_s
    );
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(32)
        .y_label_area_size(40)
        .right_y_label_area_size(44)
        .build_cartesian_2d(0.0..outcome.length_s, 0.0..most)?
        .set_secondary_coord(0.0..outcome.length_s, 0.0..load(scenario, 1.2).max(1.0));
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("seconds")
        .y_desc("slots")
        .draw()?;
    chart
        .configure_secondary_axes()
        .y_desc("arrivals a second")
        .draw()?;

    let grey = RGBColor(190, 190, 190);
    let arrivals = (0..=POINTS).map(|n| {
        let at = outcome.length_s * n as f64 / POINTS as f64;
        (at, scenario.queues.values().map(|queue| queue.per_s.at(at)).sum())
    });
    chart
        .draw_secondary_series(LineSeries::new(arrivals, grey.stroke_width(2)))?
        .label("arrivals a second")
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], grey.stroke_width(2)));
    chart
        .draw_series(LineSeries::new(thinned(&running), BLACK.mix(0.55)))?
        .label("running, all queues")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], BLACK.mix(0.55)));
    for ((name, caps), colour) in scenario.queues.keys().zip(&caps).zip(COLOURS.iter().cycle()) {
        let colour = *colour;
        chart
            .draw_series(LineSeries::new(caps.clone(), colour.stroke_width(2)))?
            .label(format!("cap of {name}"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    let within = capacity.into_iter().filter(|(_, units)| *units <= most);
    chart
        .draw_series(within.map(|point| Circle::new(point, 1, RED.mix(0.5).filled())))?
        .label("capacity found")
        .legend(|(x, y)| Circle::new((x + 9, y), 2, RED.mix(0.5).filled()));
    let marks = marks(outcome);
    chart.draw_series(marks.iter().enumerate().map(|(at, (second, reason))| {
        let height = most * (0.99 - 0.045 * (at % 5) as f64);
        Text::new(
            *reason,
            (*second, height),
            ("sans-serif", 9).into_font().color(&RED),
        )
    }))?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 11))
        .draw()?;
    root.present()?;
    Ok(())
}

fn number(tick: &Tick, name: &str) -> Option<f64> {
    let choice = tick.choices.first()?;
    choice
        .numbers
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, value)| *value)
}

fn series(outcome: &Outcome, of: impl Fn(&Tick) -> Option<f64>) -> Vec<(f64, f64)> {
    outcome
        .ticks
        .iter()
        .filter_map(|tick| Some((tick.at, of(tick)?)))
        .collect()
}

/// A cap holds until the next tick.
fn steps(outcome: &Outcome, queue: usize) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for tick in &outcome.ticks {
        let cap = f64::from(tick.caps[queue]);
        match points.last() {
            Some((_, last)) if *last == cap => continue,
            Some((_, last)) => points.push((tick.at, *last)),
            None => {}
        }
        points.push((tick.at, cap));
    }
    points.extend(points.last().map(|(_, last)| (outcome.length_s, *last)));
    points
}

/// The first tick of each run of one reason that says something.
fn marks(outcome: &Outcome) -> Vec<(f64, &'static str)> {
    let mut marks = Vec::new();
    let mut last = "";
    for tick in &outcome.ticks {
        let reasons = tick.choices.iter().map(|choice| choice.reason);
        let Some(reason) = reasons.into_iter().find(|reason| !QUIET.contains(reason)) else {
            continue;
        };
        if reason != last {
            marks.push((tick.at, reason));
        }
        last = reason;
    }
    marks.truncate(MARKS_MAX);
    marks
}

fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    points
        .iter()
        .copied()
        .step_by((points.len() / POINTS).max(1))
        .collect()
}

/// The most that arrives in a second, with room above it.
fn load(scenario: &Scenario, room: f64) -> f64 {
    room * scenario
        .queues
        .values()
        .map(|queue| queue.per_s.most())
        .sum::<f64>()
}
