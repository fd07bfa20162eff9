//! F6 · The commands of a client: which there are, and those that concern no subscription. Checks in the order of the
//! protocol, then effects.

use super::backend::{Ask, PublishGrant, Said};
use super::rules::Namespace;
use super::{Effect, Phase, Session, Turn};
use crate::broker::{Answer, Query, Treatment};
use crate::protocol::code::{ClientError, Disconnect};
use crate::protocol::{
    ChannelRequest, Command, Empty, Encoding, Error, HistoryRequest, HistoryResult, PresenceResult,
    PresenceStatsResult, Publication, PublishRequest, Reply, RpcRequest, RpcResult,
};

/// A command's outcome: it was answered or will be, the answer is an error, or the client must go.
pub(super) type Outcome = Result<(), Failure>;

pub(super) enum Failure {
    Error(ClientError),
    /// An error of the backend's.
    Said(Error),
    Close(Disconnect),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::Error(error)
    }
}

impl From<Disconnect> for Failure {
    fn from(disconnect: Disconnect) -> Failure {
        Failure::Close(disconnect)
    }
}

impl Session {
    /// The next command of a message; bytes used of it, all if there is no other command behind. `first`: the message
    /// begins here, and must hold a command. Not to be called while [`Session::is_connecting`].
    pub fn handle_command(&mut self, message: &[u8], first: bool, turn: &mut Turn<'_>) -> usize {
        if self.wire.is_uni() {
            self.connect_to_listen(message, turn);
            return message.len();
        }
        let mut rest = message;
        match self.encoding().decode(&mut rest) {
            Some(Ok(command)) => {
                let id = command.id;
                let outcome = self.charge(&command, turn).and_then(|()| self.command(command, turn));
                self.settle(id, outcome, turn);
            }
            None if !first => {}
            Some(Err(_)) | None => turn.fx.push(Effect::Close(Disconnect::BAD_REQUEST)),
        }
        // A line end behind the last command begins no other.
        let ends = self.encoding() == Encoding::Json && rest.trim_ascii_start().is_empty();
        if ends { message.len() } else { message.len() - rest.len() }
    }

    /// Does the connect command wait for its answer? What follows it must wait as well.
    pub fn is_connecting(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.connecting.is_some())
    }

    /// Says what became of a command, if that was not said yet.
    pub(super) fn settle(&mut self, id: u32, outcome: Outcome, turn: &mut Turn<'_>) {
        match outcome {
            Ok(()) => {}
            Err(Failure::Error(error)) => self.refuse(id, error.into(), turn),
            Err(Failure::Said(error)) => self.refuse(id, error, turn),
            Err(Failure::Close(disconnect)) => turn.fx.push(Effect::Close(disconnect)),
        }
    }

    fn command(&mut self, command: Command, turn: &mut Turn<'_>) -> Outcome {
        let id = command.id;
        if id == 0 {
            // No reply can be given, so nothing is meant but a pong or a message.
            if command.send.is_none() {
                self.handle_pong(turn);
                return Ok(());
            }
            let connected = self.phase == Phase::Connected;
            return Err(if connected { Disconnect::NOT_AVAILABLE } else { Disconnect::BAD_REQUEST }.into());
        }
        if let Some(request) = command.connect {
            return self.connect(id, request, turn);
        }
        if self.phase != Phase::Connected {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        if let Some(request) = command.subscribe {
            return self.subscribe(id, request, turn);
        }
        if let Some(request) = command.unsubscribe {
            return self.unsubscribe(id, request, turn);
        }
        if let Some(request) = command.publish {
            return self.publish(id, request, turn);
        }
        if let Some(request) = command.presence {
            return self.presence(id, request, false, turn);
        }
        if let Some(request) = command.presence_stats {
            return self.presence(id, request, true, turn);
        }
        if let Some(request) = command.history {
            return self.history(id, request, turn);
        }
        if command.send.is_some() {
            return Err(Disconnect::NOT_AVAILABLE.into());
        }
        if let Some(request) = command.rpc {
            return self.rpc(id, request, turn);
        }
        if let Some(request) = command.refresh {
            return self.refresh(id, request, turn);
        }
        if let Some(request) = command.sub_refresh {
            return self.sub_refresh(id, request, turn);
        }
        // No request, or a ping, which only the server may send.
        Err(Disconnect::BAD_REQUEST.into())
    }

    fn publish(&mut self, id: u32, request: PublishRequest, turn: &mut Turn<'_>) -> Outcome {
        let name = &request.channel;
        let namespace = channel_of(name, turn)?;
        let streamed = namespace.options.subscribe_stream_proxy_enabled;
        let may = streamed || turn.rules.insecure || namespace.may_publish(&self.user, self.is_subscribed(name, turn));
        let asks = namespace.options.publish_proxy_enabled;
        if !may && !asks || request.kind != 0 {
            return Err(ClientError::PermissionDenied.into());
        }
        if !is_fit(&namespace.options.publication_data_format, &request.data) {
            return Err(ClientError::BadRequest.into());
        }
        if asks {
            return self.ask_in_place(id, Ask::Publish(Box::new(request)), turn);
        }
        if streamed {
            return self.publish_to_stream(id, request, turn);
        }
        self.publish_granted(id, request, PublishGrant::default(), turn)
    }

    fn publish_granted(
        &mut self,
        id: u32,
        request: PublishRequest,
        grant: PublishGrant,
        turn: &mut Turn<'_>,
    ) -> Outcome {
        let name = &request.channel;
        if (turn.owner_is_full)(name) {
            return Err(ClientError::TooManyRequests.into());
        }
        let namespace = channel_of(name, turn)?;
        let keep = namespace.keep.filter(|_| !grant.skip_history);
        let (delta, skip_own) = (namespace.options.delta_publish, namespace.options.skip_publisher);
        let treatment = Treatment { keep, delta, ..Treatment::default() };
        let treatment = (keep.is_some() || skip_own).then(|| Box::new(treatment));
        let (data, info) = (grant.data.unwrap_or(request.data), Some(self.info(self.chan_info(name, turn))));
        let publication = Publication { data, info, tags: grant.tags, ..Publication::default() };
        turn.fx.keep_place(id);
        let (channel, publication) = (name.as_str().into(), publication.into());
        turn.fx.push(Effect::Publish { channel, publication, ticket: id, treatment, skip_own });
        Ok(())
    }

    fn presence(&mut self, id: u32, request: ChannelRequest, counts: bool, turn: &mut Turn<'_>) -> Outcome {
        let name = &request.channel;
        let namespace = channel_of(name, turn)?;
        if !namespace.options.presence {
            return Err(ClientError::NotAvailable.into());
        }
        if !turn.rules.insecure && !namespace.may_see_presence(&self.user, self.is_subscribed(name, turn)) {
            return Err(ClientError::PermissionDenied.into());
        }
        if (turn.owner_is_full)(name) {
            return Err(ClientError::TooManyRequests.into());
        }
        match counts {
            true => turn.fx.keep_place(id),
            false => turn.fx.keep_large_place(id),
        }
        turn.fx.push(Effect::Presence { channel: name.as_str().into(), ticket: id, counts });
        Ok(())
    }

    fn history(&mut self, id: u32, request: HistoryRequest, turn: &mut Turn<'_>) -> Outcome {
        let name = &request.channel;
        let namespace = channel_of(name, turn)?;
        let keep = namespace.keep.ok_or(ClientError::NotAvailable)?;
        if !turn.rules.insecure && !namespace.may_see_history(&self.user, self.is_subscribed(name, turn)) {
            return Err(ClientError::PermissionDenied.into());
        }
        let since = request.since.map(|since| (since.offset, since.epoch.into()));
        if request.reverse && since.as_ref().is_some_and(|(offset, _)| *offset == 0) {
            return Err(ClientError::BadRequest.into());
        }
        if (turn.owner_is_full)(name) {
            return Err(ClientError::TooManyRequests.into());
        }
        let most = turn.rules.history_limit;
        let limit = usize::try_from(request.limit).unwrap_or(most).min(most);
        let query = Box::new(Query { keep, since, limit, reverse: request.reverse });
        turn.fx.keep_large_place(id);
        turn.fx.push(Effect::History { channel: name.as_str().into(), ticket: id, query });
        Ok(())
    }

    fn rpc(&mut self, id: u32, request: RpcRequest, turn: &mut Turn<'_>) -> Outcome {
        if turn.rules.inboxes.any && request.method == super::inbox::ACK {
            return self.acknowledge(id, &request, turn);
        }
        if !turn.rules.rpc_proxy {
            return Err(ClientError::NotAvailable.into());
        }
        self.ask_in_place(id, Ask::Rpc(Box::new(request)), turn)
    }

    /// The owner of a channel answers the command of `ticket`.
    pub fn handle_answer(&mut self, ticket: u32, answer: Answer, turn: &mut Turn<'_>) {
        turn.fx.kept = Some(ticket);
        let mut reply = Reply { id: ticket, ..Reply::default() };
        match answer {
            Answer::Published(_) | Answer::PublishedTo(..) => reply.publish = Some(Empty {}),
            Answer::Left => reply.unsubscribe = Some(Empty {}),
            Answer::History(found) => {
                let (position, publications) = *found;
                let epoch = position.epoch.to_string();
                reply.history = Some(HistoryResult { publications, epoch, offset: position.offset });
            }
            Answer::Presence(clients) => {
                let presence = clients.into_iter().map(|info| (info.client.clone(), info)).collect();
                reply.presence = Some(PresenceResult { presence });
            }
            Answer::PresenceStats { clients, users } => {
                reply.presence_stats = Some(PresenceStatsResult { num_clients: clients, num_users: users });
            }
            Answer::Refused(error) => return self.refuse(ticket, error.into(), turn),
            // Nobody but the backend asks for it.
            Answer::Removed => return self.refuse(ticket, ClientError::Internal.into(), turn),
        }
        turn.fx.reply(self.wire, &reply);
    }

    /// The backend answers the question that was put for the command of `ticket`.
    pub fn handle_said(&mut self, ticket: u32, ask: Ask, said: Said, turn: &mut Turn<'_>) {
        turn.fx.kept = (ticket != 0).then_some(ticket);
        match ask {
            Ask::Connect(request) => self.connect_said(ticket, *request, said, turn),
            Ask::Keys { then, .. } => self.token_said(ticket, *then, said, turn),
            Ask::Check(check) => self.token_said(ticket, check.then, said, turn),
            Ask::Subscribe(request) | Ask::SubscribeStream(request) => {
                self.subscribe_said(ticket, *request, said, turn);
            }
            Ask::Refresh => match said {
                Said::Refresh(grant) => self.refresh_said(grant, turn),
                said => not_refreshed(said, turn),
            },
            Ask::SubRefresh { channel } => match said {
                Said::Refresh(grant) => self.sub_refresh_said(&channel, grant, turn),
                said => not_refreshed(said, turn),
            },
            Ask::Publish(request) => {
                let outcome = match said {
                    Said::Publish(grant) => self.publish_granted(ticket, *request, *grant, turn),
                    said => Err(said.refusal()),
                };
                self.settle(ticket, outcome, turn);
            }
            Ask::Rpc(_) => match said {
                Said::Rpc(data) => {
                    let rpc = Some(RpcResult { data });
                    turn.fx.reply(self.wire, &Reply { id: ticket, rpc, ..Reply::default() });
                }
                said => self.settle(ticket, Err(said.refusal()), turn),
            },
        }
    }

    /// What a command's token wants is there, or could not be had.
    fn token_said(&mut self, ticket: u32, then: Command, said: Said, turn: &mut Turn<'_>) {
        if let Some(request) = then.connect {
            return self.connect_said(ticket, request, said, turn);
        }
        if let Some(request) = then.subscribe {
            return self.subscribe_said(ticket, request, said, turn);
        }
        let outcome = match said {
            Said::Keys(_) | Said::Checked(_) => self.command(then, turn),
            said => Err(said.refusal()),
        };
        self.settle(ticket, outcome, turn);
    }
}

/// More time was asked for on the server's own account: nobody waits for a reply, and the deadline stands.
fn not_refreshed(said: Said, turn: &mut Turn<'_>) {
    if let Failure::Close(disconnect) = said.refusal() {
        turn.fx.push(Effect::Close(disconnect));
    }
}

/// The namespace of a channel that a command names.
fn channel_of<'a>(name: &str, turn: &Turn<'a>) -> Result<&'a Namespace, Failure> {
    if name.is_empty() {
        return Err(Disconnect::BAD_REQUEST.into());
    }
    if name.len() > turn.rules.channel_length_max {
        return Err(ClientError::BadRequest.into());
    }
    let namespace = turn.rules.namespace(name).ok_or(ClientError::UnknownChannel)?;
    if !namespace.allows_name(name) {
        return Err(ClientError::BadRequest.into());
    }
    Ok(namespace)
}

/// Is `data` what a namespace's `publication_data_format` demands?
pub fn is_fit(format: &str, data: &[u8]) -> bool {
    let json = || serde_json::from_slice::<&serde_json::value::RawValue>(data).ok();
    match format {
        "binary" => true,
        "json" => json().is_some(),
        "json_object" => json().is_some_and(|value| value.get().starts_with('{')),
        _ => !data.is_empty(),
    }
}
