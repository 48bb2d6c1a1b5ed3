//! The front door for operators: how the agent stands, and what it can be asked to do, over a local socket.

mod secret_text;
mod steward;
mod view;
mod signing;
mod question;
mod tokens;
mod entitled;
mod usage_wanted;
mod desk;
mod answer;
mod connections;
mod roles;
mod server;
mod health;
mod token_socket;
mod client;

pub use client::{Client, ClientError};
pub use desk::Desk;
pub use entitled::{Deed, Entitled, EntitledApp};
pub use health::serve as serve_health;
pub use question::{
    Explanation, GrantTrail, Operation, Origin, Presented, Question, SeenRequest, StepOutcome, TrailStep,
};
pub use roles::{InvalidWhom, Role, Roles, Whom};
pub use secret_text::SecretText;
pub use server::{Doorman, bind, serve, take_over};
pub use signing::{AuthorityRequest, InstalledStatus, SignedAuthorityStatus};
pub use steward::{Steward, StewardError};
pub use token_socket::{bind_tokens, serve_tokens};
pub use tokens::{TokenKeyOrder, TokenKeyStatus, WithdrawOrder, Withdrawn};
pub use usage_wanted::UsageWanted;
pub use view::{
    AuthorityStatus, AwaitingStatus, ConcurrencyStatus, ConfigStatus, DeliveryStatus, DetectionStatus,
    Failure, IssuedCertificate, KeysStatus, LaggardStatus, LimitsStatus, ListenerStatus, Moved, Order,
    PresentedStatus, QuotaStatus, Readiness, RegistryStatus, Reloaded, RemoteStatus, RenewalStatus,
    RetiringKey, RollOverStatus, ServiceStatus, Status, WorkloadStatus, authorities, bundle_pem, workloads,
};
