//! The engine's tables as rows.

/// One workflow.
pub mod workflow {
    use sea_orm::entity::prelude::*;

    /// One row of `workflows`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "workflows")]
    pub struct Model {
        /// The workflow's id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// Which workflow.
        pub kind: String,
        /// What it works on.
        pub resource: String,
        /// JSON.
        pub input: String,
        /// The request context as JSON.
        pub context: String,
        /// W3C `traceparent` of the submitting request, or empty.
        pub trace: String,
        /// `running`, `undoing`, `succeeded` or `failed`.
        pub state: String,
        /// The worker that has it; empty if none.
        pub owner: String,
        /// Raised by every claim.
        pub epoch: i64,
        /// Running: how many steps are done. Undoing: how many are left to undo.
        pub step: i64,
        /// How often the current step was tried.
        pub attempt: i64,
        /// Raised by every wake.
        pub wakes: i64,
        /// When it is to be looked at next; far away once it has ended.
        pub wake_at: i64,
        /// When undoing starts by itself.
        pub deadline_at: i64,
        /// What the current step waits for, for people.
        pub waiting_for: String,
        /// Why it is being undone, as JSON; empty while all is well.
        pub fault: String,
        /// Why it shall be given up, as JSON; empty if nobody said so.
        pub cancel: String,
        /// By the database's clock.
        pub created_at: i64,
        /// By the database's clock.
        pub updated_at: i64,
        /// By the database's clock; 0 while it runs.
        pub finished_at: i64,
    }

    /// None.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// One step that has been done or undone.
pub mod step {
    use sea_orm::entity::prelude::*;

    /// One row of `workflow_steps`; only ever added.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "workflow_steps")]
    pub struct Model {
        /// The workflow.
        #[sea_orm(primary_key, auto_increment = false)]
        pub workflow_id: String,
        /// `do` or `undo`.
        #[sea_orm(primary_key, auto_increment = false)]
        pub action: String,
        /// The step's place in the list.
        #[sea_orm(primary_key, auto_increment = false)]
        pub position: i64,
        /// The step's name.
        pub name: String,
        /// What it returned, as JSON.
        pub output: String,
        /// The claim that did it.
        pub epoch: i64,
        /// By the database's clock.
        pub recorded_at: i64,
    }

    /// None.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
