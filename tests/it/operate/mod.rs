//! What an operator sees and does: status, page, doctor, service files, first steps.

mod doctor;
mod faults;
mod faults_of_trust;
mod first_steps;
mod manual;
mod metrics;
mod page;
mod service;
mod status;
mod sync;
