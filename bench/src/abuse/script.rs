//! What one attacker's connection does: steps, one after the other, and what it reads meanwhile.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::speech;
use crate::centrifugal;

/// Which connection of its crowd says something, and for which time.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    pub connection: u64,
    pub round: u64,
}

/// Bytes to send: the same each time, or made when they are due.
#[derive(Clone)]
pub enum Payload {
    Fixed(Bytes),
    Made(Arc<dyn Fn(Turn) -> Vec<u8> + Send + Sync>),
}

impl Payload {
    pub fn made(make: impl Fn(Turn) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::Made(Arc::new(make))
    }

    pub fn bytes(&self, turn: Turn) -> Bytes {
        match self {
            Self::Fixed(bytes) => bytes.clone(),
            Self::Made(make) => make(turn).into(),
        }
    }
}

impl<T: Into<Bytes>> From<T> for Payload {
    fn from(bytes: T) -> Self {
        Self::Fixed(bytes.into())
    }
}

/// One step.
#[derive(Clone)]
pub enum Step {
    Send(Payload),
    /// Waits for the head of an HTTP answer.
    Head,
    /// Waits until so many frames came, counted from the beginning.
    Frames(u64),
    /// Sends again and again, as fast as the socket takes it, until the connection ends.
    Flood(Payload),
    /// The same, each time after so long.
    Every(Duration, Payload),
    ReadNothing,
    /// Reads so many bytes a second.
    ReadAt(u64),
    /// Stays until it is closed or the attack ends.
    Hold,
    Leave,
    /// Leaves with a reset.
    Abort,
}

/// Where a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Public,
    Internal,
    Grpc,
}

#[derive(Clone)]
pub struct Script {
    pub door: Door,
    pub steps: Vec<Step>,
    /// What ended is begun anew.
    pub again: bool,
    /// After the head come WebSocket frames: pings are answered, a close is noticed.
    pub websocket: bool,
    /// Bytes of the kernel's receive buffer, if that is to be small.
    pub receive_buffer: Option<usize>,
}

impl Script {
    /// Connects and then does as it is told.
    pub fn raw(door: Door) -> Self {
        Self { door, steps: Vec::new(), again: false, websocket: false, receive_buffer: None }
    }

    /// A WebSocket, upgraded, at the client endpoint.
    pub fn upgraded() -> Self {
        Self::upgraded_at(centrifugal::PATH, &[])
    }

    /// The same with a path and more lines in the head.
    pub fn upgraded_at(path: &str, lines: &[&str]) -> Self {
        let upgrade = Step::Send(speech::upgrade(path, lines).into());
        Self { websocket: true, ..Self::raw(Door::Public) }.then(upgrade).then(Step::Head)
    }

    /// A client of the user `attacker`, connected.
    pub fn client() -> Self {
        Self::upgraded().joined(None)
    }

    /// Sends the connect command, for nobody if `anonymous` says so, and waits for the reply.
    pub fn joined(self, token: Option<&str>) -> Self {
        let connect = token.map_or_else(speech::connect_attacker, |token| centrifugal::connect(Some(token)));
        self.then(Step::Send(speech::message(&connect).into())).then(Step::Frames(1))
    }

    pub fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    pub fn send(self, payload: impl Into<Payload>) -> Self {
        self.then(Step::Send(payload.into()))
    }

    pub fn flood(self, payload: impl Into<Payload>) -> Self {
        self.then(Step::Flood(payload.into()))
    }

    pub fn again(self) -> Self {
        Self { again: true, ..self }
    }
}
