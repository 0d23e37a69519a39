//! See the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    match tidegate_sim::cli::main() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
