//! The command line: one file for each verb, and the only room that prints.

mod args;
mod output;
mod table;
mod token;
mod moment;
mod locate;
mod local_ca;
mod run;
mod check;
mod schema;
mod status;
mod explain;
mod who_can;
mod usage;
mod signing;
mod ca;
mod cert;
mod diff;
mod clerk;
mod registry;
mod key;
mod apply;
mod apigee;
mod import;
mod audit;
mod sign;
mod dispatch;

pub use dispatch::main;
