//! F10 · What nodes say to each other: Protobuf, with the numbers of Centrifugo's own.
//!
//! Owns the messages, and the translation from and to what reactors are asked. Knows nothing of how they travel.

use crate::auth::Overrides;
use crate::protocol::code::Disconnect;
use crate::protocol::{FilterNode, StreamPosition, SubscribeRequest};
use crate::session::backend::{RefreshGrant, SubscribeGrant};
use crate::shard::{Chosen, Control};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;

/// Of a subscription that a server API asked for.
const SOURCE_SERVER_API: u32 = 10;
/// Of an unsubscribe by the server API.
const UNSUBSCRIBE_CODE: u32 = 2000;
const UNSUBSCRIBE_REASON: &str = "server unsubscribe";

#[derive(Clone, PartialEq, Message)]
pub struct ControlCommand {
    /// Who says it.
    #[prost(string, tag = "1")]
    pub uid: String,
    #[prost(message, optional, tag = "4")]
    pub node: Option<FleetNode>,
    #[prost(message, optional, tag = "5")]
    pub unsubscribe: Option<FleetUnsubscribe>,
    #[prost(message, optional, tag = "6")]
    pub disconnect: Option<FleetDisconnect>,
    #[prost(message, optional, tag = "7")]
    pub shutdown: Option<FleetShutdown>,
    #[prost(message, optional, tag = "8")]
    pub survey_request: Option<SurveyRequest>,
    #[prost(message, optional, tag = "9")]
    pub survey_response: Option<SurveyResponse>,
    #[prost(message, optional, boxed, tag = "10")]
    pub subscribe: Option<Box<FleetSubscribe>>,
    #[prost(message, optional, tag = "12")]
    pub refresh: Option<FleetRefresh>,
}

/// A node, as the others list it.
#[derive(Clone, PartialEq, Message)]
pub struct FleetNode {
    #[prost(string, tag = "1")]
    pub uid: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub version: String,
    #[prost(uint32, tag = "4")]
    pub num_clients: u32,
    #[prost(uint32, tag = "5")]
    pub num_users: u32,
    #[prost(uint32, tag = "6")]
    pub num_channels: u32,
    /// Seconds.
    #[prost(uint32, tag = "7")]
    pub uptime: u32,
    #[prost(message, optional, tag = "8")]
    pub metrics: Option<FleetMetrics>,
    #[prost(uint32, tag = "10")]
    pub num_subs: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct FleetMetrics {
    #[prost(double, tag = "1")]
    pub interval: f64,
    #[prost(btree_map = "string, double", tag = "2")]
    pub items: BTreeMap<String, f64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct FleetShutdown {}

#[derive(Clone, PartialEq, Message)]
pub struct FleetUnsubscribe {
    #[prost(string, tag = "1")]
    pub channel: String,
    #[prost(string, tag = "2")]
    pub user: String,
    #[prost(string, tag = "3")]
    pub client: String,
    #[prost(string, tag = "4")]
    pub session: String,
    #[prost(uint32, tag = "5")]
    pub code: u32,
    #[prost(string, tag = "6")]
    pub reason: String,
    #[prost(message, optional, boxed, tag = "7")]
    pub label_filter: Option<Box<FilterNode>>,
    #[prost(bool, tag = "8")]
    pub all_users: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct FleetDisconnect {
    #[prost(string, tag = "1")]
    pub user: String,
    #[prost(string, repeated, tag = "2")]
    pub whitelist: Vec<String>,
    #[prost(uint32, tag = "3")]
    pub code: u32,
    #[prost(string, tag = "4")]
    pub reason: String,
    #[prost(string, tag = "6")]
    pub client: String,
    #[prost(string, tag = "7")]
    pub session: String,
    #[prost(message, optional, boxed, tag = "8")]
    pub label_filter: Option<Box<FilterNode>>,
    #[prost(bool, tag = "9")]
    pub all_users: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct FleetSubscribe {
    #[prost(string, tag = "1")]
    pub user: String,
    #[prost(string, tag = "2")]
    pub channel: String,
    #[prost(bool, tag = "3")]
    pub emit_presence: bool,
    #[prost(bool, tag = "4")]
    pub emit_join_leave: bool,
    #[prost(int64, tag = "5")]
    pub expire_at: i64,
    #[prost(bool, tag = "6")]
    pub position: bool,
    #[prost(bool, tag = "7")]
    pub recover: bool,
    #[prost(bytes = "bytes", tag = "8")]
    pub channel_info: Bytes,
    #[prost(string, tag = "9")]
    pub client: String,
    #[prost(bytes = "bytes", tag = "10")]
    pub data: Bytes,
    #[prost(message, optional, tag = "11")]
    pub recover_since: Option<StreamPosition>,
    #[prost(string, tag = "12")]
    pub session: String,
    #[prost(bool, tag = "13")]
    pub push_join_leave: bool,
    #[prost(uint32, tag = "14")]
    pub source: u32,
    #[prost(message, optional, boxed, tag = "15")]
    pub label_filter: Option<Box<FilterNode>>,
    #[prost(bool, tag = "16")]
    pub all_users: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct FleetRefresh {
    #[prost(string, tag = "1")]
    pub user: String,
    #[prost(string, tag = "2")]
    pub client: String,
    #[prost(bool, tag = "3")]
    pub expired: bool,
    #[prost(int64, tag = "4")]
    pub expire_at: i64,
    #[prost(bytes = "bytes", tag = "5")]
    pub info: Bytes,
    #[prost(string, tag = "6")]
    pub session: String,
    #[prost(message, optional, boxed, tag = "7")]
    pub label_filter: Option<Box<FilterNode>>,
    #[prost(bool, tag = "8")]
    pub all_users: bool,
}

/// A question to all nodes, or to one.
#[derive(Clone, PartialEq, Message)]
pub struct SurveyRequest {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub op: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub struct SurveyResponse {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// 0 = it was done.
    #[prost(uint32, tag = "2")]
    pub code: u32,
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
}

/// What a channel's namespace says, where a subscription does not say it itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SubscribeDefaults {
    pub presence: bool,
    pub join_leave: bool,
    pub force_push_join_leave: bool,
    pub recovery: bool,
    pub positioning: bool,
}

impl ControlCommand {
    /// What other nodes are to do as well; `None` for what is asked of reactors alone.
    pub fn of(control: &Control, defaults: SubscribeDefaults) -> Option<ControlCommand> {
        let mut command = ControlCommand::default();
        let who = |chosen: &Chosen| {
            let Chosen { user, client, session } = chosen.clone();
            (user, client, session)
        };
        match control {
            Control::Disconnect { chosen, keep, disconnect } => {
                let (user, client, session) = who(chosen);
                let (code, reason) = (u32::from(disconnect.code), disconnect.reason.to_string());
                let whitelist = keep.clone();
                let all = FleetDisconnect { user, client, session, whitelist, code, reason, ..Default::default() };
                command.disconnect = Some(all);
            }
            Control::Subscribe { chosen, request, grant } => {
                let (user, client, session) = who(chosen);
                let Overrides { presence, join_leave, force_push_join_leave, force_recovery, force_positioning } =
                    grant.overrides;
                let (offset, epoch) = (request.offset, request.epoch.clone());
                command.subscribe = Some(Box::new(FleetSubscribe {
                    user,
                    client,
                    session,
                    channel: request.channel.clone(),
                    emit_presence: presence.unwrap_or(defaults.presence),
                    emit_join_leave: join_leave.unwrap_or(defaults.join_leave),
                    push_join_leave: force_push_join_leave.unwrap_or(defaults.force_push_join_leave),
                    recover: force_recovery.unwrap_or(defaults.recovery),
                    position: force_positioning.unwrap_or(defaults.positioning),
                    expire_at: i64::try_from(grant.expire_at).unwrap_or(i64::MAX),
                    channel_info: grant.info.clone(),
                    data: grant.data.clone(),
                    recover_since: request.recover.then_some(StreamPosition { offset, epoch }),
                    source: SOURCE_SERVER_API,
                    ..FleetSubscribe::default()
                }));
            }
            Control::Unsubscribe { chosen, channel } => {
                let (user, client, session) = who(chosen);
                let (channel, code, reason) = (channel.clone(), UNSUBSCRIBE_CODE, UNSUBSCRIBE_REASON.to_owned());
                let all = FleetUnsubscribe { channel, user, client, session, code, reason, ..Default::default() };
                command.unsubscribe = Some(all);
            }
            Control::Refresh { chosen, grant } => {
                let (user, client, session) = who(chosen);
                let RefreshGrant { expired, expire_at, info, .. } = grant.clone();
                let expire_at = i64::try_from(expire_at).unwrap_or(i64::MAX);
                let info = info.unwrap_or_default();
                command.refresh =
                    Some(FleetRefresh { user, client, session, expired, expire_at, info, ..Default::default() });
            }
            Control::Channels(_)
            | Control::Stats
            | Control::Users
            | Control::Clients(_)
            | Control::Seats(_)
            | Control::Trace(_)
            | Control::Inbox(_) => return None,
        }
        Some(command)
    }

    /// What reactors here are to do, if that is what it asks. What chooses clients in a way that is not known here is
    /// nothing: it must not meet others than it means.
    pub fn control(&self) -> Option<Control> {
        if let Some(it) = &self.disconnect {
            let known = it.label_filter.is_none() && !it.all_users;
            let disconnect = match u16::try_from(it.code).ok().filter(|code| (3000..5000).contains(code)) {
                Some(code) => Disconnect { code, reason: it.reason.clone().into() },
                None => Disconnect::FORCE_DISCONNECT,
            };
            let (chosen, keep) = (chosen(&it.user, &it.client, &it.session), it.whitelist.clone());
            return known.then_some(Control::Disconnect { chosen, keep, disconnect });
        }
        if let Some(it) = &self.subscribe {
            let known = it.label_filter.is_none() && !it.all_users && !it.channel.is_empty();
            let overrides = Overrides {
                presence: Some(it.emit_presence),
                join_leave: Some(it.emit_join_leave),
                force_push_join_leave: Some(it.push_join_leave),
                force_recovery: Some(it.recover),
                force_positioning: Some(it.position),
            };
            let expire_at = u64::try_from(it.expire_at).unwrap_or(0);
            let grant = SubscribeGrant { expire_at, info: it.channel_info.clone(), data: it.data.clone(), overrides };
            let recover = it.recover_since.is_some();
            let StreamPosition { offset, epoch } = it.recover_since.clone().unwrap_or_default();
            let channel = it.channel.clone();
            let request = SubscribeRequest { channel, recover, offset, epoch, ..SubscribeRequest::default() };
            let chosen = chosen(&it.user, &it.client, &it.session);
            return known.then_some(Control::Subscribe { chosen, request, grant });
        }
        if let Some(it) = &self.unsubscribe {
            let known = it.label_filter.is_none() && !it.all_users;
            let (chosen, channel) = (chosen(&it.user, &it.client, &it.session), it.channel.clone());
            return known.then_some(Control::Unsubscribe { chosen, channel });
        }
        let it = self.refresh.as_ref()?;
        let known = it.label_filter.is_none() && !it.all_users;
        let info = Some(it.info.clone()).filter(|info| !info.is_empty());
        let expire_at = u64::try_from(it.expire_at).unwrap_or(0);
        let grant = RefreshGrant { expired: it.expired, expire_at, info, meta: None };
        known.then_some(Control::Refresh { chosen: chosen(&it.user, &it.client, &it.session), grant })
    }
}

fn chosen(user: &str, client: &str, session: &str) -> Chosen {
    Chosen { user: user.into(), client: client.into(), session: session.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UID: &str = "1b8b156f-c683-4a06-a826-6c78cdd332e8";

    fn said(command: ControlCommand) -> Vec<u8> {
        ControlCommand { uid: UID.into(), ..command }.encode_to_vec()
    }

    fn of(control: Control) -> Vec<u8> {
        said(ControlCommand::of(&control, SubscribeDefaults::default()).expect("for all nodes"))
    }

    /// What a recording of two Centrifugo nodes has.
    #[test]
    fn messages_are_those_of_a_fleet() {
        let with = |rest: &[u8]| [b"\n$", UID.as_bytes(), rest].concat();
        let survey = SurveyRequest { id: 1, op: "channels".into(), data: Bytes::new() };
        let asked = said(ControlCommand { survey_request: Some(survey), ..ControlCommand::default() });
        assert_eq!(asked, with(b"B\x0c\x08\x01\x12\x08channels"));
        let nobody = Chosen { client: "nobody".into(), ..Chosen::default() };
        let request = SubscribeRequest { channel: "sv".into(), ..SubscribeRequest::default() };
        let subscribe = Control::Subscribe { chosen: nobody, request, grant: SubscribeGrant::default() };
        assert_eq!(of(subscribe), with(b"R\x0e\x12\x02svJ\x06nobodyp\n"));
        let grant = RefreshGrant { expire_at: 4_000_000_000, ..RefreshGrant::default() };
        let refresh = Control::Refresh { chosen: Chosen::default(), grant };
        assert_eq!(of(refresh), with(b"b\x06 \x80\xd0\xac\xf3\x0e"));
        let unsubscribe = Control::Unsubscribe { chosen: Chosen::default(), channel: "plain".into() };
        assert_eq!(of(unsubscribe), with(b"*\x1e\n\x05plain(\xd0\x0f2\x12server unsubscribe"));
        let disconnect = Disconnect::FORCE_DISCONNECT;
        let disconnect = Control::Disconnect { chosen: Chosen::default(), keep: Vec::new(), disconnect };
        assert_eq!(of(disconnect), with(b"2\x15\x18\xaf\x1b\"\x10force disconnect"));
        let node = FleetNode {
            uid: UID.into(),
            name: "node_bbb".into(),
            version: "6.9.1 OSS".into(),
            uptime: 3,
            ..FleetNode::default()
        };
        let told = said(ControlCommand { node: Some(node), ..ControlCommand::default() });
        assert_eq!(told, with(&[b"\"=\n$", UID.as_bytes(), b"\x12\x08node_bbb\x1a\t6.9.1 OSS8\x03"].concat()));
    }

    #[test]
    fn what_one_node_asks_is_done_on_another() {
        let chosen = Chosen { user: "u".into(), client: "c".into(), session: "s".into() };
        let disconnect = Disconnect { code: 4001, reason: "r".into() };
        let request = SubscribeRequest {
            channel: "a".into(),
            recover: true,
            offset: 3,
            epoch: "e".into(),
            ..SubscribeRequest::default()
        };
        let all = Overrides {
            presence: Some(true),
            join_leave: Some(false),
            force_push_join_leave: Some(true),
            force_recovery: Some(false),
            force_positioning: Some(true),
        };
        let grant = SubscribeGrant { expire_at: 9, info: "1".into(), data: "2".into(), overrides: all };
        let refresh = RefreshGrant { expired: true, expire_at: 5, info: Some("3".into()), meta: None };
        for control in [
            Control::Disconnect { chosen: chosen.clone(), keep: vec!["k".into()], disconnect },
            Control::Subscribe { chosen: chosen.clone(), request, grant },
            Control::Unsubscribe { chosen: chosen.clone(), channel: "a".into() },
            Control::Refresh { chosen, grant: refresh },
        ] {
            let bytes = of(control.clone());
            let back = ControlCommand::decode(&*bytes).expect("a command").control();
            assert_eq!(format!("{back:?}"), format!("{:?}", Some(control)));
        }
    }

    #[test]
    fn who_cannot_be_told_apart_is_left_alone() {
        let filter = Some(Box::new(FilterNode::default()));
        let one = FleetDisconnect { label_filter: filter.clone(), ..FleetDisconnect::default() };
        let all = FleetDisconnect { all_users: true, ..FleetDisconnect::default() };
        for disconnect in [one, all] {
            let command = ControlCommand { disconnect: Some(disconnect), ..ControlCommand::default() };
            assert!(command.control().is_none());
        }
        let subscribe = FleetSubscribe { label_filter: filter, channel: "a".into(), ..FleetSubscribe::default() };
        let command = ControlCommand { subscribe: Some(Box::new(subscribe)), ..ControlCommand::default() };
        assert!(command.control().is_none());
        assert!(ControlCommand::default().control().is_none());
    }

    proptest! {
        #[test]
        fn anything_may_come(bytes: Vec<u8>) {
            if let Ok(command) = ControlCommand::decode(&*bytes) {
                let _ = command.control();
            }
        }
    }
}
