//! What has to be watched, as the placements ask for it.

use crate::agent::Agent;
use crate::objects;
use crate::placement::Placement;
use crate::world::Followed;

impl Agent {
    /// What is not watched any more is not known any more.
    pub(crate) fn follow_what_matters(&mut self) {
        let mut followed = Followed::default();
        self.placements.values().for_each(|placement| followed.extend(&placement.followed));
        if followed != self.followed {
            self.world.keep_only(&followed);
            self.followed = followed;
        }
    }
}

impl Placement {
    /// Whether something else is to be watched for this placement than after the last look at it.
    pub(crate) fn follows_anew(&mut self) -> bool {
        let follows = self.follows();
        let anew = follows != self.followed;
        self.followed = follows;
        anew
    }

    /// The namespace whose objects matter; the kinds in it that are copied, which are watched only where a placement lists
    /// them; and of Argo CD and Flux only what applies something of it.
    pub(crate) fn follows(&self) -> Followed {
        let namespace = &self.name.namespace;
        let concerned = self.assignment.is_some() || self.command.is_some() || self.recorded.is_some();
        let kinds = self.assignment.as_ref().map(objects::kinds).unwrap_or_default();
        Followed {
            namespaces: concerned.then(|| namespace.clone()).into_iter().collect(),
            objects: kinds.into_iter().map(|kind| (namespace.clone(), kind)).collect(),
            reconcilers: self.reconcilers.keys().cloned().collect(),
        }
    }
}
