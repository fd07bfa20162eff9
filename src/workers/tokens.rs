//! F10 · Tokens whose signatures are dear: checked by a worker, answered by mail.
//!
//! Owns the way there and back. What a check is, is `auth`'s; what comes of it, the session's.

use super::{JobKind, Pool};
use crate::base::mailbox::Sender;
use crate::protocol::code::ClientError;
use crate::session::backend::{Ask, Call, Said};
use crate::session::{Rules, Settings};
use crate::shard::Mail;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::watch;

/// What a reactor needs to have tokens checked.
#[derive(Clone)]
pub struct TokenChecks {
    pub pool: Arc<Pool>,
    pub settings: watch::Receiver<Arc<Settings>>,
    pub reactors: Vec<Sender<Mail>>,
}

impl TokenChecks {
    /// Gives the question back when too many wait, or if it is none of a token.
    // It comes back to be answered; a box would cost every question an allocation.
    #[expect(clippy::result_large_err)]
    pub fn ask(&self, call: Call) -> Result<(), Call> {
        let (Ask::Check(check), Some(reactor)) = (&call.ask, self.reactors.get(usize::from(call.conn.reactor))) else {
            return Err(call);
        };
        let (size, rules, reactor) = (check.size(), self.settings.borrow().rules.clone(), reactor.clone());
        self.pool.offer((call.conn, JobKind::Token), size, call, move |Call { conn, ticket, ask, .. }| {
            let said = said(&ask, &rules);
            // A place in the queue was given for it, so there are no more of these than may wait.
            reactor.send(Mail::Backend { conn, ticket, ask, said });
        })
    }
}

/// A fault of ours must not leave a client without an answer. Where panics abort, it ends the process.
fn said(ask: &Ask, rules: &Rules) -> Said {
    let judged = catch_unwind(AssertUnwindSafe(|| match ask {
        Ask::Check(check) => Some(check.judge(rules)),
        _ => None,
    }));
    match judged {
        Ok(Some(verdict)) => Said::Checked(verdict.into()),
        Ok(None) | Err(_) => Said::Error(ClientError::Internal.into()),
    }
}
