//! The README's commands do what it says: each line of its `sh` blocks is run, in order, as it stands there.

use std::{path::Path, time::Duration};

use tidegate_tests::{Answer, App, Process, Sandbox};

const PATIENCE: Duration = Duration::from_secs(30);

/// The lines of the README's `sh` blocks.
fn commands() -> Vec<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(readme).unwrap();
    let blocks = text.split("```sh\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines());
    lines.map(str::to_owned).filter(|line| !line.is_empty()).collect()
}

/// The words after the program's name, quotes taken off; `None` = another program's command.
fn words(line: &str) -> Option<Vec<String>> {
    let rest = line
        .strip_prefix("cargo run --release -- ")
        .or_else(|| line.strip_prefix("tidegate "))?;
    let mut words = Vec::new();
    for (i, part) in rest.split('\'').enumerate() {
        match i % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    Some(words)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_commands_work_as_written() {
    let sandbox = Sandbox::new();
    let app = App::start(|_| Answer::ok());
    let mut dev = None;
    for line in commands() {
        let Some(words) = words(&line) else {
            assert!(
                line.starts_with("cargo xtask "),
                "teach this test to run {line:?}"
            );
            continue;
        };
        // The one thing a reader has to bring: an app.
        let words: Vec<_> = words
            .into_iter()
            .map(|word| {
                if word == "http://127.0.0.1:9000/" {
                    app.url()
                } else {
                    word
                }
            })
            .collect();
        match words[0].as_str() {
            "dev" => {
                let process = Process::tidegate(&sandbox, &words, &[]);
                process.wait_for_line("ready role=dev", PATIENCE).await;
                dev = Some(process);
            }
            role @ ("router" | "worker" | "controller") => {
                // The same ports as dev's.
                if let Some(dev) = dev.take() {
                    dev.sigterm();
                    assert_eq!(dev.wait_exit(PATIENCE).await, 0);
                }
                let process = Process::tidegate(&sandbox, &words, &[]);
                process
                    .wait_for_line(&format!("ready role={role}"), PATIENCE)
                    .await;
            }
            _ => {
                let process = Process::tidegate(&sandbox, &words, &[]);
                assert_eq!(process.wait_exit(PATIENCE).await, 0, "{line}: {}", process.tail());
            }
        }
    }
    let args = ["submit", "email", "{}", "--wait"];
    let process = Process::tidegate(&sandbox, args, &[]);
    assert_eq!(process.wait_exit(PATIENCE).await, 0, "{}", process.tail());
    assert_eq!(app.deliveries().len(), 1);
}
