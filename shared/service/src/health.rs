//! What a process says about its own health: one entry for each component,
//! and the worst of them for the whole.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// How a component is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "status", content = "detail", rename_all = "snake_case")]
pub enum ComponentHealth {
    /// Works.
    Up,
    /// Works, but an operator should look; the process still serves.
    Degraded(String),
    /// Does not work; the process should get no requests.
    Down(String),
}

impl ComponentHealth {
    fn rank(&self) -> u8 {
        match self {
            Self::Up => 0,
            Self::Degraded(_) => 1,
            Self::Down(_) => 2,
        }
    }
}

type Check = Arc<dyn Fn() -> ComponentHealth + Send + Sync>;

#[derive(Default)]
struct Entries {
    set: BTreeMap<String, ComponentHealth>,
    checks: BTreeMap<String, Check>,
}

/// The components of a process; a cheap handle, shared by all of them.
#[derive(Clone, Default)]
pub struct HealthRegistry {
    entries: Arc<Mutex<Entries>>,
}

/// The whole, as `/health` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthReport {
    /// `up`, `degraded` or `down`: the worst component's; `draining` once the
    /// process was told to end.
    pub status: &'static str,
    /// Every component by name.
    pub components: BTreeMap<String, ComponentHealth>,
}

impl HealthReport {
    /// The status of a process that was told to end.
    pub const DRAINING: &'static str = "draining";

    /// Whether the process should get requests.
    pub fn serves(&self) -> bool {
        matches!(self.status, "up" | "degraded")
    }
}

impl HealthRegistry {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        // A map of plain values is whole after any panic.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how a component is; it is added if it was unknown.
    pub fn set(&self, component: &str, health: ComponentHealth) {
        let mut entries = self.lock();
        match entries.set.get_mut(component) {
            Some(entry) => *entry = health,
            None => {
                entries.set.insert(component.to_owned(), health);
            }
        }
    }

    /// A handle that sets one component. It starts as up.
    pub fn component(&self, component: &str) -> HealthHandle {
        self.set(component, ComponentHealth::Up);
        HealthHandle {
            registry: self.clone(),
            component: component.into(),
        }
    }

    /// Asks `check` whenever the health is read; it must not block.
    pub fn check(
        &self,
        component: &str,
        check: impl Fn() -> ComponentHealth + Send + Sync + 'static,
    ) {
        self.lock()
            .checks
            .insert(component.to_owned(), Arc::new(check));
    }

    /// Forgets a component.
    pub fn remove(&self, component: &str) {
        let mut entries = self.lock();
        entries.set.remove(component);
        entries.checks.remove(component);
    }

    /// The whole.
    pub fn report(&self) -> HealthReport {
        let (mut components, checks) = {
            let entries = self.lock();
            (entries.set.clone(), entries.checks.clone())
        };
        for (name, check) in checks {
            components.insert(name, check());
        }
        let status = match components.values().map(ComponentHealth::rank).max() {
            Some(2) => "down",
            Some(1) => "degraded",
            _ => "up",
        };
        HealthReport { status, components }
    }
}

impl std::fmt::Debug for HealthRegistry {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("HealthRegistry")
    }
}

/// Sets the health of one component.
#[derive(Clone, Debug)]
pub struct HealthHandle {
    registry: HealthRegistry,
    component: Arc<str>,
}

impl HealthHandle {
    /// Works.
    pub fn up(&self) {
        self.registry.set(&self.component, ComponentHealth::Up);
    }

    /// Works, but an operator should look.
    pub fn degraded(&self, detail: impl Into<String>) {
        self.registry
            .set(&self.component, ComponentHealth::Degraded(detail.into()));
    }

    /// Does not work.
    pub fn down(&self, detail: impl Into<String>) {
        self.registry
            .set(&self.component, ComponentHealth::Down(detail.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_component_speaks_for_the_whole() {
        let health = HealthRegistry::default();
        assert_eq!(health.report().status, "up");
        let bus = health.component("bus");
        health.check("database", || ComponentHealth::Degraded("slow".into()));
        assert_eq!(health.report().status, "degraded");
        assert!(health.report().serves());
        bus.down("no broker");
        assert!(!health.report().serves());
        let shown = serde_json::to_value(health.report()).unwrap();
        assert_eq!(shown["components"]["bus"]["detail"], "no broker");
        bus.up();
        health.remove("database");
        assert_eq!(health.report().status, "up");
    }
}
