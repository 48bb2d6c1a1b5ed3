//! Why a known caller may not: the reasons for "I know you, and no".

/// Not allowed.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Denial {
    /// The app was revoked.
    AppRevoked,
    /// The kind of credential is not accepted by the listener, the service, the app, the grant, the product or the operation.
    AuthMethodNotAllowed,
    /// The condition of the operation is not met.
    ConditionFailed,
    /// The developer who owns the app is inactive.
    DeveloperInactive,
    /// The grant that would allow it has ended.
    GrantExpired,
    /// The grant that would allow it waits for approval.
    GrantPending,
    /// The grant that would allow it was revoked.
    GrantRevoked,
    /// A scope that the operation asks for is not in force.
    InsufficientScope,
    /// No granted product contains the operation.
    NotEntitled,
    /// The service is given no more at a time.
    Overloaded,
    /// A quota is used up.
    QuotaExceeded,
    /// Nobody can count any more.
    QuotaUnavailable,
    /// It comes too fast.
    SpikeArrested,
    /// A user's token is missing, and nothing else.
    StepUpRequired,
    /// The product that contains the operation is for other environments than this agent's.
    WrongEnvironment,
}

impl Denial {
    /// All reasons, for metrics and documentation.
    pub const ALL: [Self; 15] = [
        Self::AppRevoked,
        Self::AuthMethodNotAllowed,
        Self::ConditionFailed,
        Self::DeveloperInactive,
        Self::GrantExpired,
        Self::GrantPending,
        Self::GrantRevoked,
        Self::InsufficientScope,
        Self::NotEntitled,
        Self::Overloaded,
        Self::QuotaExceeded,
        Self::QuotaUnavailable,
        Self::SpikeArrested,
        Self::StepUpRequired,
        Self::WrongEnvironment,
    ];

    /// The stable code that callers, logs and metrics see.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::AppRevoked => "app-revoked",
            Self::AuthMethodNotAllowed => "auth-method-not-allowed",
            Self::ConditionFailed => "condition-failed",
            Self::DeveloperInactive => "developer-inactive",
            Self::GrantExpired => "grant-expired",
            Self::GrantPending => "grant-pending",
            Self::GrantRevoked => "grant-revoked",
            Self::InsufficientScope => "insufficient-scope",
            Self::NotEntitled => "not-entitled",
            Self::Overloaded => "overloaded",
            Self::QuotaExceeded => "quota-exceeded",
            Self::QuotaUnavailable => "quota-unavailable",
            Self::SpikeArrested => "spike-arrested",
            Self::StepUpRequired => "step-up-required",
            Self::WrongEnvironment => "wrong-environment",
        }
    }

    /// The HTTP status to answer with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::AppRevoked
            | Self::AuthMethodNotAllowed
            | Self::ConditionFailed
            | Self::DeveloperInactive
            | Self::GrantExpired
            | Self::GrantPending
            | Self::GrantRevoked
            | Self::InsufficientScope
            | Self::NotEntitled
            | Self::StepUpRequired
            | Self::WrongEnvironment => 403,
            Self::Overloaded | Self::QuotaUnavailable => 503,
            Self::QuotaExceeded | Self::SpikeArrested => 429,
        }
    }

    /// One sentence for a human.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::AppRevoked => "The app has been revoked.",
            Self::AuthMethodNotAllowed => "This kind of credential is not accepted here for this app.",
            Self::ConditionFailed => "The request does not meet the operation's condition.",
            Self::DeveloperInactive => "The developer who owns the app is inactive.",
            Self::GrantExpired => "The app's grant has expired.",
            Self::GrantPending => "The app's grant has not been approved yet.",
            Self::GrantRevoked => "The app's grant has been revoked.",
            Self::InsufficientScope => {
                "The operation asks for a scope that the credential or the product does not convey."
            }
            Self::NotEntitled => "No product granted to the caller contains this operation.",
            Self::Overloaded => "The service has as many requests under way as it can answer in time.",
            Self::QuotaExceeded => "The app has used up its quota for this window of time.",
            Self::QuotaUnavailable => "The app's quota cannot be counted at the moment.",
            Self::SpikeArrested => "The app's requests come faster than it may send them.",
            Self::StepUpRequired => {
                "This operation also needs an access token of the user for whom the app calls."
            }
            Self::WrongEnvironment => "The granted product is not for this environment.",
        }
    }
}
