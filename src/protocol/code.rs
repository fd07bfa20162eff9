//! F2 · Error, disconnect and unsubscribe codes with their texts, as the official SDKs know them.

/// A command refused; the session lives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ClientError {
    Internal = 100,
    Unauthorized = 101,
    UnknownChannel = 102,
    PermissionDenied = 103,
    MethodNotFound = 104,
    AlreadySubscribed = 105,
    LimitExceeded = 106,
    BadRequest = 107,
    NotAvailable = 108,
    TokenExpired = 109,
    Expired = 110,
    TooManyRequests = 111,
    UnrecoverablePosition = 112,
}

impl ClientError {
    pub fn code(self) -> u32 {
        self as u32
    }

    /// May the same command succeed later?
    pub fn is_temporary(self) -> bool {
        matches!(self, ClientError::Internal | ClientError::TooManyRequests)
    }

    pub fn message(self) -> &'static str {
        match self {
            ClientError::Internal => "internal server error",
            ClientError::Unauthorized => "unauthorized",
            ClientError::UnknownChannel => "unknown channel",
            ClientError::PermissionDenied => "permission denied",
            ClientError::MethodNotFound => "method not found",
            ClientError::AlreadySubscribed => "already subscribed",
            ClientError::LimitExceeded => "limit exceeded",
            ClientError::BadRequest => "bad request",
            ClientError::NotAvailable => "not available",
            ClientError::TokenExpired => "token expired",
            ClientError::Expired => "expired",
            ClientError::TooManyRequests => "too many requests",
            ClientError::UnrecoverablePosition => "unrecoverable position",
        }
    }
}

/// Why a client must go: the code and reason of the close frame. 3000 to 3499 and 4000 to 4499 invite it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    pub code: u16,
    pub reason: std::borrow::Cow<'static, str>,
}

macro_rules! disconnects {
    ($($name:ident $code:literal $reason:literal)*) => {
        impl Disconnect {
            $(pub const $name: Disconnect = Disconnect { code: $code, reason: std::borrow::Cow::Borrowed($reason) };)*
            /// Codes of all of them.
            pub const CODES: &[u16] = &[$($code),*];
        }
    };
}

disconnects! {
    CONNECTION_CLOSED 3000 "connection closed"
    SHUTDOWN 3001 "shutdown"
    INTERNAL 3004 "internal server error"
    CONNECTION_EXPIRED 3005 "connection expired"
    SUBSCRIPTION_EXPIRED 3006 "subscription expired"
    SLOW 3008 "slow"
    WRITE_ERROR 3009 "write error"
    INSUFFICIENT_STATE 3010 "insufficient state"
    NO_PONG 3012 "no pong"
    INVALID_TOKEN 3500 "invalid token"
    BAD_REQUEST 3501 "bad request"
    TOO_MANY_REQUESTS 3013 "too many requests"
    STALE 3502 "stale"
    FORCE_DISCONNECT 3503 "force disconnect"
    CONNECTION_LIMIT 3504 "connection limit"
    CHANNEL_LIMIT 3505 "channel limit"
    INAPPROPRIATE_PROTOCOL 3506 "inappropriate protocol"
    PERMISSION_DENIED 3507 "permission denied"
    NOT_AVAILABLE 3508 "not available"
    TOO_MANY_ERRORS 3509 "too many errors"
}

impl Disconnect {
    /// Does the connection end without a word? Clients use this code for an end of their own.
    pub fn is_silent(&self) -> bool {
        self.code == Disconnect::CONNECTION_CLOSED.code
    }

    /// What a client that reads no replies is told of an error.
    pub fn of(error: &super::Error) -> Disconnect {
        match error.code {
            103 => Disconnect::PERMISSION_DENIED,
            109 | 110 => Disconnect::CONNECTION_EXPIRED,
            111 => Disconnect::TOO_MANY_REQUESTS,
            _ => Disconnect::INTERNAL,
        }
    }
}

/// The server took a subscription away; the SDK does not come back for it.
pub const UNSUBSCRIBED_BY_SERVER: (u32, &str) = (2000, "server unsubscribe");
/// Publications are missing: the SDK subscribes anew and recovers.
pub const INSUFFICIENT_STATE: (u32, &str) = (2500, "insufficient state");
/// Nobody refreshed the subscription: the SDK subscribes anew.
pub const SUBSCRIPTION_EXPIRED: (u32, &str) = (2501, "subscription expired");
