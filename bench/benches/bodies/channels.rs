//! The timer wheel, and the hub: joins, leaves, and publications cut into slices.

use super::{Body, Operation, json_string};
use gannet::base::wheel::{Nodes, Tick, Wheel, WheelLinks};
use gannet::broker::{Epoch, Position};
use gannet::hub::{Flags, Hub, Slot, Work};
use gannet::protocol::Publication;
use gannet::wire::Wire;
use gannet::ws::Deflater;
use std::hint::black_box;
use std::sync::Arc;

pub const WHEEL: &[Body] = &[
    Body { name: "wheel/disarm_and_arm", prepare: rearm },
    Body { name: "wheel/tick_with_4_of_1024_due", prepare: tick },
];

pub const HUB: &[Body] = &[
    Body { name: "hub/join_and_leave_among_1000", prepare: join_among_many },
    Body { name: "hub/join_and_leave_alone", prepare: join_alone },
    Body { name: "hub/publish_1_to_1000_in_slices", prepare: || publish(1) },
    Body { name: "hub/publish_64_to_1000_in_slices", prepare: || publish(64) },
    Body { name: "hub/publish_1_positioned_to_1000_in_slices", prepare: publish_positioned },
];

const CLIENTS: u32 = 1024;
/// Ticks from being popped to being due again.
const PERIOD: Tick = 256;
const SUBSCRIBERS: u32 = 1000;
/// Deliveries in a slice.
const BUDGET: usize = 256;

struct Clients(Vec<WheelLinks>);

impl Nodes for Clients {
    fn links(&mut self, node: u32) -> &mut WheelLinks {
        &mut self.0[node as usize]
    }
}

fn armed() -> (Wheel, Clients) {
    let mut wheel = Wheel::new(0);
    let mut clients = Clients(vec![WheelLinks::default(); CLIENTS as usize]);
    for client in 0..CLIENTS {
        wheel.arm(&mut clients, client, 1 + client % PERIOD);
    }
    (wheel, clients)
}

fn rearm() -> Operation {
    let (mut wheel, mut clients) = armed();
    let mut client = 0;
    Box::new(move || {
        client = (client + 7) % CLIENTS;
        wheel.disarm(&mut clients, black_box(client));
        wheel.arm(&mut clients, client, 1 + client % PERIOD);
    })
}

fn tick() -> Operation {
    let (mut wheel, mut clients) = armed();
    let mut now = 0;
    Box::new(move || {
        now += 1;
        while let Some(client) = wheel.pop(&mut clients, now) {
            wheel.arm(&mut clients, black_box(client), now + PERIOD);
        }
    })
}

fn slot(conn: u32) -> Slot {
    Slot { conn, back: 0, wire: Wire::WebSocketJson, flags: Flags::default() }
}

/// Everything that waits; deliveries made.
fn deliver(hub: &mut Hub<()>, deflater: &mut Deflater) -> usize {
    let mut delivered = 0;
    while let Some(Work::Deliver(delivery)) = hub.next(BUDGET, deflater) {
        // As a shard does it: looked for anew only where the next subscriber is unlike the last.
        let mut last = None;
        for slot in delivery.slots {
            if black_box(last) != Some(slot.likeness()) {
                last = Some(slot.likeness());
                black_box(delivery.bytes(slot));
            }
        }
        delivered += delivery.items as usize * delivery.slots.len();
    }
    delivered
}

/// A hub with a full channel and many small ones.
fn peopled() -> Hub<()> {
    let mut hub = Hub::default();
    for conn in 0..SUBSCRIBERS {
        for name in ["news:football", &format!("user:{conn}")] {
            let id = hub.hold(name);
            hub.join(id, slot(conn));
        }
    }
    hub
}

fn join_among_many() -> Operation {
    let mut hub = peopled();
    Box::new(move || {
        let id = hub.hold(black_box("news:football"));
        hub.join(id, slot(SUBSCRIBERS));
        black_box(hub.leave(id, SUBSCRIBERS / 2));
    })
}

fn join_alone() -> Operation {
    let mut hub = peopled();
    Box::new(move || {
        let id = hub.hold(black_box("user:new"));
        let at = hub.join(id, slot(SUBSCRIBERS));
        black_box(hub.leave(id, at));
    })
}

fn publish(count: usize) -> Operation {
    let (mut hub, mut deflater) = (peopled(), Deflater::default());
    let publication = Arc::new(Publication { data: json_string().into(), ..Publication::default() });
    Box::new(move || {
        for _ in 0..count {
            hub.publish(black_box("news:football"), publication.clone(), None, None);
        }
        assert_eq!(deliver(&mut hub, &mut deflater), count * SUBSCRIBERS as usize);
    })
}

/// To subscribers who are to be told of a gap, each publication with the offset that follows.
fn publish_positioned() -> Operation {
    const NAME: &str = "scores:football";
    let (mut hub, mut deflater) = (Hub::default(), Deflater::default());
    let position = Position { offset: 0, epoch: Epoch::random(7) };
    for conn in 0..SUBSCRIBERS {
        let id = hub.hold(NAME);
        hub.begin(id, &position);
        hub.join(id, Slot { flags: Flags::POSITIONED, ..slot(conn) });
    }
    let mut publication = Publication { data: json_string().into(), ..Publication::default() };
    Box::new(move || {
        publication.offset += 1;
        hub.publish(black_box(NAME), Arc::new(publication.clone()), None, None);
        assert_eq!(deliver(&mut hub, &mut deflater), SUBSCRIBERS as usize);
    })
}
