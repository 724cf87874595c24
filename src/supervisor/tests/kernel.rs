//! The kernel of scripts and of the simulation: it sends or refuses signals, and nothing else.

use crate::supervisor::ChildId;
use std::collections::BTreeMap;

const EPERM: i32 = 1;

/// Which signals are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refuses {
    Nothing,
    /// All signals to these workers.
    These(Vec<u64>),
    /// All signals, as to workers of another user when we have no CAP_KILL.
    Everything,
    EveryThirdWorker,
    /// The first signal to each worker.
    TheFirst,
}

#[derive(Debug, Clone)]
pub struct Kernel {
    pub refuses: Refuses,
    /// How many signals were sent to each worker.
    sent: BTreeMap<ChildId, u32>,
}

impl Kernel {
    pub fn new(refuses: Refuses) -> Kernel {
        Kernel {
            refuses,
            sent: BTreeMap::new(),
        }
    }

    /// The answer of kill(2).
    pub fn send(&mut self, id: ChildId) -> Result<(), i32> {
        let sent = self.sent.entry(id).or_default();
        *sent += 1;
        let refused = match &self.refuses {
            Refuses::Nothing => false,
            Refuses::These(ids) => ids.contains(&id.0),
            Refuses::Everything => true,
            Refuses::EveryThirdWorker => id.0 % 3 == 0,
            Refuses::TheFirst => *sent == 1,
        };
        if refused { Err(EPERM) } else { Ok(()) }
    }
}
