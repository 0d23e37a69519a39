//! The command line.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::{
    bench, explain, plot, report,
    run::Setup,
    scenario::Scenario,
    suite::{Job, rows_of},
};

/// Runs the governor against a model plant.
#[derive(Parser)]
#[command(name = "tidegate-sim")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run scenarios and judge them
    Run(Run),
    /// Print one decision of a scenario with its inputs
    Explain(Explain),
    /// Measure how long a decision takes for a large fleet
    Bench,
}

#[derive(Args)]
struct Run {
    /// Every scenario of the repository
    #[arg(long)]
    all: bool,
    /// Scenario files
    files: Vec<PathBuf>,
    #[arg(long, value_delimiter = ',', default_value = "11,12,13")]
    seeds: Vec<u64>,
    /// adaptive, ema_aimd, fixed, staticN, vegas, gradient2, oracle
    #[arg(long, value_delimiter = ',', default_value = "adaptive")]
    strategy: Vec<String>,
    #[arg(long, default_value = "5s", value_parser = seconds)]
    tick: f64,
    /// Write the rows to a file, or to standard output with -
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write an SVG for each scenario into a folder, of the first seed and strategy
    #[arg(long)]
    plot: Option<PathBuf>,
    /// Show every check, also those that hold
    #[arg(long)]
    verbose: bool,
}

#[derive(Args)]
struct Explain {
    file: PathBuf,
    /// Seconds since the start
    #[arg(long, value_parser = seconds)]
    at: f64,
    #[arg(long, default_value_t = 11)]
    seed: u64,
    #[arg(long, default_value = "adaptive")]
    strategy: String,
    #[arg(long, default_value = "5s", value_parser = seconds)]
    tick: f64,
}

/// `5s`, `500ms`, or a number of seconds.
fn seconds(text: &str) -> Result<f64, String> {
    let parsed = text
        .parse::<f64>()
        .ok()
        .or_else(|| humantime::parse_duration(text).ok().map(|d| d.as_secs_f64()));
    match parsed {
        Some(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(seconds),
        _ => Err(format!(
            "{text} is no time: write 5s, 500ms or a number of seconds"
        )),
    }
}

/// Runs the command; `false`: something did not pass.
pub fn main() -> Result<bool> {
    match Cli::parse().command {
        Command::Run(args) => args.run(),
        Command::Explain(args) => {
            check_tick(args.tick)?;
            let scenario = Scenario::load(&args.file)?;
            let setup = Setup {
                seed: args.seed,
                tick_s: args.tick,
                keeps_log: true,
            };
            print!(
                "{}",
                explain::explain(&scenario, &args.strategy, &setup, args.at)?
            );
            Ok(true)
        }
        Command::Bench => {
            print!("{}", bench::run());
            Ok(true)
        }
    }
}

fn check_tick(tick_s: f64) -> Result<()> {
    match (0.1..=60.0).contains(&tick_s) {
        true => Ok(()),
        false => bail!("--tick must be from 100ms to 60s"),
    }
}

impl Run {
    fn run(self) -> Result<bool> {
        check_tick(self.tick)?;
        let scenarios = self.scenarios()?;
        let jobs: Vec<Job<'_>> = scenarios
            .iter()
            .flat_map(|scenario| self.seeds.iter().map(move |seed| (scenario, *seed)))
            .map(|(scenario, seed)| Job {
                scenario,
                seed,
                tick_s: self.tick,
                strategies: &self.strategy,
            })
            .collect();
        let rows = rows_of(&jobs)?;
        let json_to_stdout = self.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
        if json_to_stdout {
            println!("{}", report::json(&rows)?);
        } else {
            println!("{}", report::table(&rows));
            if self.verbose {
                println!("{}", report::details(&rows));
            }
        }
        if let Some(path) = self.json.as_ref().filter(|_| !json_to_stdout) {
            std::fs::write(path, report::json(&rows)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        if let Some(folder) = &self.plot {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            let seed = self.seeds.first().copied().unwrap_or(11);
            let strategy = self.strategy.first().map_or("adaptive", String::as_str);
            let setup = Setup {
                seed,
                tick_s: self.tick,
                keeps_log: true,
            };
            for scenario in &scenarios {
                let path = plot::draw(scenario, strategy, &setup, folder)?;
                println!("{}", path.display());
            }
        }
        Ok(rows.iter().all(|row| row.pass))
    }

    fn scenarios(&self) -> Result<Vec<Scenario>> {
        let mut files = self.files.clone();
        if self.all {
            files.extend(all_files()?);
        }
        if files.is_empty() {
            bail!("say which scenarios to run: --all, or files");
        }
        files.iter().map(|file| Scenario::load(file)).collect()
    }
}

/// The scenarios of the repository, in the order of their names.
pub fn all_files() -> Result<Vec<PathBuf>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
