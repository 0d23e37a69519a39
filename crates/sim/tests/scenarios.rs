//! Every scenario of the repository once, on one seed: what the governor is worth must not decay unnoticed.

use tidegate_sim::{Job, Row, cli, rows_of, scenario::Scenario};

const SEED: u64 = 11;
const TICK_S: f64 = 5.0;
/// One seed is one draw: a measure may miss its range by this much before it is a regression.
const SLACK: f64 = 1.1;
const SLACK_PCT: f64 = 0.5;

fn scenarios() -> Vec<Scenario> {
    let files = cli::all_files().expect("the folder of scenarios");
    assert!(files.len() >= 15, "{files:?}");
    files
        .iter()
        .map(|file| Scenario::load(file).expect("a valid scenario"))
        .collect()
}

fn rows(scenarios: &[Scenario], strategies: &[&str]) -> Vec<Row> {
    let strategies: Vec<String> = strategies.iter().map(|name| (*name).to_owned()).collect();
    let jobs: Vec<Job<'_>> = scenarios
        .iter()
        .map(|scenario| Job {
            scenario,
            seed: SEED,
            tick_s: TICK_S,
            strategies: &strategies,
        })
        .collect();
    rows_of(&jobs).expect("every scenario runs")
}

#[test]
fn the_governor_is_as_good_as_promised_and_never_over_a_hard_cap() {
    let scenarios = scenarios();
    for row in rows(&scenarios, &["adaptive"]) {
        assert_eq!(row.over_cap_pct, 0.0, "{}", row.scenario);
        for check in &row.checks {
            let is_near = check.min.is_none_or(|min| check.value >= min - SLACK_PCT)
                && check.max.is_none_or(|max| check.value <= max * SLACK + 1e-9);
            assert!(
                is_near,
                "{}: {} is {:.3}, not {}",
                row.scenario, check.measure, check.value, check.bounds
            );
        }
    }
}

/// The oracle obeys the same rules and a constant does not: so the ranges do tell good from bad.
#[test]
fn a_constant_fails_where_the_governor_passes() {
    let all = scenarios();
    let halved: Vec<Scenario> = all
        .into_iter()
        .filter(|scenario| scenario.name.starts_with("2 ") || scenario.name.starts_with("6 "))
        .collect();
    for row in rows(&halved, &["static50", "oracle"]) {
        if row.strategy == "oracle" {
            assert_eq!((row.over_cap_pct, row.lost), (0.0, 0), "{}", row.scenario);
        } else {
            assert!(row.over_cap_pct > 10.0 && !row.pass, "{}", row.scenario);
        }
    }
}

#[test]
fn a_file_anywhere_is_a_scenario_and_a_broken_one_says_where() {
    let steady = std::fs::read_to_string(&cli::all_files().expect("files")[0]).expect("readable");
    let folder = std::env::temp_dir().join(format!("tidegate-sim-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let (good, bad) = (folder.join("mine.toml"), folder.join("bad.toml"));
    std::fs::write(&good, &steady).expect("written");
    std::fs::write(&bad, steady.replace("knee = 32", "knee = [[10, 5], [0, 5]]")).expect("written");
    assert!(Scenario::load(&good).is_ok());
    let why = format!("{:#}", Scenario::load(&bad).expect_err("points out of order"));
    assert!(
        why.contains("bad.toml") && why.contains("resources.pg.knee"),
        "{why}"
    );
    let why = format!(
        "{:#}",
        Scenario::load(&folder.join("none.toml")).expect_err("not there")
    );
    assert!(why.contains("none.toml"), "{why}");
    std::fs::remove_dir_all(&folder).expect("removed");
}
