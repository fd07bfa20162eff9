//! How far a trial is: one number that the conductor sets and all threads read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// The parts of a trial, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Clients connect, streams are filled.
    Setup,
    /// The control group alone.
    Before,
    /// Beside the attack.
    During,
    /// The attackers are gone.
    After,
    /// Nothing is published any more; what is under way may still come.
    End,
}

/// The windows that figures are kept for.
pub const WINDOWS: [Phase; 3] = [Phase::Before, Phase::During, Phase::After];

impl Phase {
    /// Its place among the windows, if it is one.
    pub fn window(self) -> Option<usize> {
        WINDOWS.iter().position(|phase| *phase == self)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Setup => "set-up",
            Self::Before => "before",
            Self::During => "during",
            Self::After => "after",
            Self::End => "end",
        }
    }
}

/// The phase as all threads see it.
#[derive(Clone, Debug, Default)]
pub struct Stage(Arc<AtomicU8>);

impl Stage {
    pub fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Release);
    }

    pub fn get(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Setup,
            1 => Phase::Before,
            2 => Phase::During,
            3 => Phase::After,
            _ => Phase::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_gives_back_the_phase_it_was_set_to() {
        let stage = Stage::default();
        assert_eq!((stage.get(), stage.get().window()), (Phase::Setup, None));
        for (at, phase) in WINDOWS.into_iter().enumerate() {
            stage.set(phase);
            assert_eq!((stage.clone().get(), phase.window()), (phase, Some(at)));
        }
        stage.set(Phase::End);
        assert_eq!(stage.get(), Phase::End);
    }
}
