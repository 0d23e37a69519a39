//! Values over time and random amounts, as scenario files write them.

use fastrand::Rng;
use serde::Deserialize;

/// A value over time: a number, steps `[[0, 5], [120, 20]]`, or one of the forms with a name.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Curve {
    Always(f64),
    /// (from second, value).
    Steps(Vec<(f64, f64)>),
    Form(Form),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Form {
    /// Straight lines between (second, value); two points at one second are a step.
    Lines(Vec<(f64, f64)>),
    /// `low + (high - low) * (0.5 + 0.5 cos(2 pi t / period_s))`.
    Wave { low: f64, high: f64, period_s: f64 },
    /// `low`, then `high`, each for half a period.
    Square { low: f64, high: f64, period_s: f64 },
}

impl Curve {
    pub fn at(&self, t: f64) -> f64 {
        match self {
            Curve::Always(value) => *value,
            Curve::Steps(steps) => {
                let before = steps.iter().take_while(|(from, _)| *from <= t).last();
                before.map_or(0.0, |(_, value)| *value)
            }
            Curve::Form(Form::Lines(points)) => on_lines(points, t),
            Curve::Form(Form::Wave { low, high, period_s }) => {
                let turn = (std::f64::consts::TAU * t / period_s).cos();
                low + (high - low) * (0.5 + 0.5 * turn)
            }
            Curve::Form(Form::Square { low, high, period_s }) => {
                if t % period_s < period_s / 2.0 {
                    *low
                } else {
                    *high
                }
            }
        }
    }

    /// No value over time is above it.
    pub fn most(&self) -> f64 {
        match self {
            Curve::Always(value) => *value,
            Curve::Steps(points) | Curve::Form(Form::Lines(points)) => {
                points.iter().map(|(_, value)| *value).fold(0.0, f64::max)
            }
            Curve::Form(Form::Wave { low, high, .. } | Form::Square { low, high, .. }) => low.max(*high),
        }
    }

    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let (Curve::Steps(points) | Curve::Form(Form::Lines(points))) = self else {
            let period = match self {
                Curve::Form(Form::Wave { period_s, .. } | Form::Square { period_s, .. }) => *period_s,
                _ => 1.0,
            };
            return match period > 0.0 && self.most().is_finite() && self.most() >= 0.0 {
                true => Ok(()),
                false => Err("needs finite values of at least 0 and a period above 0".to_owned()),
            };
        };
        if points.is_empty() {
            return Err("has no points".to_owned());
        }
        if points
            .iter()
            .any(|(t, value)| !t.is_finite() || !value.is_finite() || *value < 0.0)
        {
            return Err("has a point that is negative or no number".to_owned());
        }
        match points.is_sorted_by(|a, b| a.0 <= b.0) {
            true => Ok(()),
            false => Err("has points that are not in the order of time".to_owned()),
        }
    }
}

fn on_lines(points: &[(f64, f64)], t: f64) -> f64 {
    let after = points.iter().position(|(at, _)| *at > t);
    match after {
        Some(0) => points[0].1,
        None => points.last().map_or(0.0, |(_, value)| *value),
        Some(next) => {
            let ((t0, v0), (t1, v1)) = (points[next - 1], points[next]);
            v0 + (v1 - v0) * (t - t0) / (t1 - t0).max(1e-9)
        }
    }
}

/// A random amount of seconds: `fixed(0.1)`, `exp(0.05)`, `er4(1.2)` (Erlang), or `mix(0.1 fixed(5), 0.9 fixed(0.01))`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub enum Amount {
    /// Erlang with so many phases; 0 phases: always the mean.
    Erlang {
        phases: u32,
        mean: f64,
    },
    Mix(Vec<(f64, Amount)>),
}

impl Amount {
    pub fn draw(&self, random: &mut Rng) -> f64 {
        match self {
            Amount::Erlang { phases: 0, mean } => *mean,
            Amount::Erlang { phases, mean } => {
                let one = mean / f64::from(*phases);
                (0..*phases).map(|_| -one * (1.0 - random.f64()).ln()).sum()
            }
            Amount::Mix(parts) => {
                let mut left = random.f64() * parts.iter().map(|(weight, _)| weight).sum::<f64>();
                for (weight, amount) in parts {
                    left -= weight;
                    if left <= 0.0 {
                        return amount.draw(random);
                    }
                }
                parts.last().map_or(0.0, |(_, amount)| amount.draw(random))
            }
        }
    }

    pub fn mean(&self) -> f64 {
        match self {
            Amount::Erlang { mean, .. } => *mean,
            Amount::Mix(parts) => {
                let all: f64 = parts.iter().map(|(weight, _)| weight).sum();
                parts
                    .iter()
                    .map(|(weight, amount)| weight * amount.mean())
                    .sum::<f64>()
                    / all
            }
        }
    }
}

impl TryFrom<String> for Amount {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no amount: write fixed(0.1), exp(0.05), er4(1.2) or mix(0.1 fixed(5), 0.9 fixed(0.01))"
            )
        };
        let (name, rest) = text.trim().split_once('(').ok_or_else(wrong)?;
        let inside = rest.strip_suffix(')').ok_or_else(wrong)?;
        if name == "mix" {
            let parts = inside.split(',').map(|part| {
                let (weight, amount) = part.trim().split_once(' ').ok_or_else(wrong)?;
                let weight: f64 = weight.parse().map_err(|_| wrong())?;
                if !(weight > 0.0 && weight.is_finite()) {
                    return Err(wrong());
                }
                Ok((weight, Amount::try_from(amount.trim().to_owned())?))
            });
            return parts.collect::<Result<_, _>>().map(Amount::Mix);
        }
        let mean: f64 = inside.trim().parse().map_err(|_| wrong())?;
        if !(mean >= 0.0 && mean.is_finite()) {
            return Err(wrong());
        }
        let phases = match (name, name.strip_prefix("er")) {
            ("fixed", _) => 0,
            ("exp", _) => 1,
            (_, Some(phases)) => phases
                .parse()
                .ok()
                .filter(|n| (1..=100).contains(n))
                .ok_or_else(wrong)?,
            _ => return Err(wrong()),
        };
        Ok(Amount::Erlang { phases, mean })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(text: &str) -> Result<Amount, String> {
        Amount::try_from(text.to_owned())
    }

    #[test]
    fn curves_by_time() {
        let steps = Curve::Steps(vec![(0.0, 1.0), (10.0, 5.0)]);
        assert_eq!((steps.at(9.9), steps.at(10.0)), (1.0, 5.0));
        let lines = Curve::Form(Form::Lines(vec![
            (0.0, 30.0),
            (10.0, 30.0),
            (10.0, 15.0),
            (20.0, 25.0),
        ]));
        assert_eq!(
            (lines.at(5.0), lines.at(10.0), lines.at(15.0), lines.at(99.0)),
            (30.0, 15.0, 20.0, 25.0)
        );
        let wave = Curve::Form(Form::Wave {
            low: 0.0,
            high: 14.0,
            period_s: 600.0,
        });
        assert_eq!((wave.at(0.0), wave.at(300.0).round()), (14.0, 0.0));
        assert!(Curve::Steps(vec![(5.0, 1.0), (0.0, 1.0)]).check().is_err());
    }

    #[test]
    fn amounts_have_their_mean() {
        let mut random = Rng::with_seed(1);
        for text in ["fixed(2)", "exp(2)", "er4(2)", "mix(0.1 fixed(5), 0.9 exp(0.5))"] {
            let amount = amount(text).expect(text);
            let mean = (0..50_000).map(|_| amount.draw(&mut random)).sum::<f64>() / 50_000.0;
            assert!((mean / amount.mean() - 1.0).abs() < 0.03, "{text}: {mean}");
        }
    }

    #[test]
    fn what_is_no_amount_says_what_one_is() {
        for text in [
            "",
            "er4",
            "er0(1)",
            "exp(-1)",
            "exp(x)",
            "mix(fixed(1))",
            "mix(0 fixed(1))",
        ] {
            assert!(amount(text).is_err_and(|why| why.contains("er4(1.2)")), "{text}");
        }
    }
}
