//! Why a known caller may not: the reasons for "I know you, and no".

/// Not allowed.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Denial {
    /// The app was revoked.
    AppRevoked,
    /// The kind of credential is not accepted by the listener, the service, the operation or the app.
    AuthMethodNotAllowed,
    /// The developer who owns the app is inactive.
    DeveloperInactive,
    /// The grant that would allow it has ended.
    GrantExpired,
    /// The grant that would allow it waits for approval.
    GrantPending,
    /// The grant that would allow it was revoked.
    GrantRevoked,
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
}

impl Denial {
    /// All reasons, for metrics and documentation.
    pub const ALL: [Self; 12] = [
        Self::AppRevoked,
        Self::AuthMethodNotAllowed,
        Self::DeveloperInactive,
        Self::GrantExpired,
        Self::GrantPending,
        Self::GrantRevoked,
        Self::NotEntitled,
        Self::Overloaded,
        Self::QuotaExceeded,
        Self::QuotaUnavailable,
        Self::SpikeArrested,
        Self::StepUpRequired,
    ];

    /// The stable code that callers, logs and metrics see.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::AppRevoked => "app-revoked",
            Self::AuthMethodNotAllowed => "auth-method-not-allowed",
            Self::DeveloperInactive => "developer-inactive",
            Self::GrantExpired => "grant-expired",
            Self::GrantPending => "grant-pending",
            Self::GrantRevoked => "grant-revoked",
            Self::NotEntitled => "not-entitled",
            Self::Overloaded => "overloaded",
            Self::QuotaExceeded => "quota-exceeded",
            Self::QuotaUnavailable => "quota-unavailable",
            Self::SpikeArrested => "spike-arrested",
            Self::StepUpRequired => "step-up-required",
        }
    }

    /// The HTTP status to answer with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::AppRevoked
            | Self::AuthMethodNotAllowed
            | Self::DeveloperInactive
            | Self::GrantExpired
            | Self::GrantPending
            | Self::GrantRevoked
            | Self::NotEntitled
            | Self::StepUpRequired => 403,
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
            Self::DeveloperInactive => "The developer who owns the app is inactive.",
            Self::GrantExpired => "The app's grant has expired.",
            Self::GrantPending => "The app's grant has not been approved yet.",
            Self::GrantRevoked => "The app's grant has been revoked.",
            Self::NotEntitled => "No product granted to the app contains this operation.",
            Self::Overloaded => "The service has as many requests under way as it can answer in time.",
            Self::QuotaExceeded => "The app has used up its quota for this window of time.",
            Self::QuotaUnavailable => "The app's quota cannot be counted at the moment.",
            Self::SpikeArrested => "The app's requests come faster than it may send them.",
            Self::StepUpRequired => {
                "This operation also needs an access token of the user for whom the app calls."
            }
        }
    }
}
