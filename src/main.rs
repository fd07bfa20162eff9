//! F11 · The `gannet` program: arguments to configuration to server. The only place that prints errors or exits.

use gannet::cli::{self, Action};
use gannet::server::Left;
use std::process::ExitCode;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
#[cfg(all(feature = "mimalloc", not(feature = "jemalloc")))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The configuration is wrong, or the server could not start.
const EXIT_UNUSABLE: u8 = 2;
/// A second signal ended the node before its drain was over.
const EXIT_AT_ONCE: u8 = 3;

fn main() -> ExitCode {
    match cli::run(std::env::args_os(), std::env::vars_os(), &mut std::io::stdout()) {
        Ok(Action::Done) => ExitCode::SUCCESS,
        Ok(Action::No) => ExitCode::FAILURE,
        Ok(Action::Serve(config, warnings, source)) => match gannet::server::run(*config, &warnings, &|| source.load())
        {
            Ok(Left::InTime) => ExitCode::SUCCESS,
            Ok(Left::AtOnce) => ExitCode::from(EXIT_AT_ONCE),
            Err(error) => {
                eprintln!("error: {error}");
                if error.was_serving { ExitCode::FAILURE } else { ExitCode::from(EXIT_UNUSABLE) }
            }
        },
        Err(errors) => {
            eprint!("{errors}");
            ExitCode::from(EXIT_UNUSABLE)
        }
    }
}
