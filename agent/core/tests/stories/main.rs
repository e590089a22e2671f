//! What an agent does, told as stories: each is the transcript of one agent in one small cluster.

mod ailments;
mod claims_created_later;
mod cluster;
mod fencing;
mod gates;
mod groups;
mod growth;
mod leases;
mod letting_go;
mod objects;
mod planned_moves;
mod promotion;
mod reconcilers;
mod refusals;
mod restarts;
mod returning_holder;
mod rollbacks;
mod staging;
mod witnesses;
