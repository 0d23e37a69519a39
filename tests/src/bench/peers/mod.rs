//! `cargo xtask bench peers`: Tidegate beside what people use today, on the same machine, the same servers, the same
//! 200-byte payload, in one run. docs/benchmarks.md says what is compared and what is not comparable.

mod arena;
mod crash;
mod measure;
mod peer;

use anyhow::bail;
use serde_json::{Map, Value};

use super::Figures;
pub use peer::Peer;

pub struct Options {
    pub rounds: usize,
    /// Length of each measurement.
    pub seconds: f64,
    /// Names of peers; empty = all.
    pub only: Vec<String>,
    /// Names of measures; empty = all.
    pub measures: Vec<String>,
}

/// In the order in which they are taken; peers take turns in each, so that a machine that slows down slows all.
pub const MEASURES: [&str; 9] = [
    "submit",
    "drain",
    "drain_limited",
    "pipeline",
    "pickup_500",
    "pickup_2000",
    "bytes",
    "fleet",
    "crash",
];

/// Taken once: they count, and do not depend on how fast the machine is just now.
const ONCE: [&str; 3] = ["bytes", "fleet", "crash"];

/// # Errors
/// An unknown name, a peer that cannot be installed, or an adapter that says something else than it should.
pub async fn run(options: &Options) -> anyhow::Result<Vec<(Peer, Figures)>> {
    let mut results = Vec::new();
    for peer in chosen(&options.only)? {
        peer.install()?;
        results.push((peer, Figures::default()));
    }
    if let Some(unknown) = options
        .measures
        .iter()
        .find(|name| !MEASURES.contains(&name.as_str()))
    {
        bail!(
            "no measure is called {unknown:?}; there are: {}",
            MEASURES.join(", ")
        );
    }
    for round in 0..options.rounds {
        let wanted = |name: &&str| {
            let named = options.measures.is_empty() || options.measures.iter().any(|only| only == name);
            named && (round == 0 || !ONCE.contains(name))
        };
        for measure in MEASURES.iter().copied().filter(wanted) {
            for (peer, figures) in &mut results {
                eprintln!("round {}: {measure} of {}", round + 1, peer.name());
                one(*peer, measure, options.seconds, figures).await?;
            }
        }
    }
    Ok(results)
}

async fn one(peer: Peer, measure: &str, seconds: f64, figures: &mut Figures) -> anyhow::Result<()> {
    match measure {
        "submit" => measure::submit(peer, seconds, figures).await,
        "drain" => measure::drain(peer, false, seconds, figures).await,
        "drain_limited" if peer.has_limits() => measure::drain(peer, true, seconds, figures).await,
        "pipeline" => {
            if peer.is_tidegate() {
                measure::pipeline(peer, "pipeline_unary", "unary", seconds, figures).await?;
                return measure::pipeline(peer, "pipeline", "flood", seconds, figures).await;
            }
            measure::pipeline(peer, "pipeline", "single", seconds, figures).await
        }
        "pickup_500" => measure::pickup(peer, 500, seconds, figures).await,
        "pickup_2000" => measure::pickup(peer, 2_000, seconds, figures).await,
        "bytes" => measure::bytes(peer, figures).await,
        "fleet" => measure::fleet(peer, figures).await,
        "crash" => crash::run(peer, figures).await,
        _ => Ok(()),
    }
}

fn chosen(only: &[String]) -> anyhow::Result<Vec<Peer>> {
    let names = || Peer::ALL.map(Peer::name).join(", ");
    if only.is_empty() {
        return Ok(Peer::ALL.to_vec());
    }
    let find = |name: &String| Peer::ALL.into_iter().find(|peer| peer.name() == name);
    only.iter()
        .map(|name| match find(name) {
            Some(peer) => Ok(peer),
            None => bail!("no peer is called {name:?}; there are: {}", names()),
        })
        .collect()
}

/// Medians by peer and figure.
pub fn json(results: &[(Peer, Figures)]) -> Value {
    let one = |(peer, figures): &(Peer, Figures)| (peer.name().to_owned(), figures.json());
    Value::Object(results.iter().map(one).collect::<Map<_, _>>())
}

/// One block a peer: median, range, and the ratio to the same figure of BullMQ.
pub fn print(results: &[(Peer, Figures)]) {
    let base = results.iter().find(|(peer, _)| *peer == Peer::BullMq);
    for (peer, figures) in results {
        println!("\n{}", peer.name());
        for (name, median, low, high) in figures.ranges() {
            let other = base
                .and_then(|(_, base)| base.median(name))
                .filter(|value| *value > 0.0);
            let ratio = other.map_or(String::new(), |other| {
                format!("   x{:.2} of bullmq", median / other)
            });
            println!("  {name:<28}{median:>12.2}   [{low:.2} .. {high:.2}]{ratio}");
        }
    }
}
