//! What touches the database, once more on the other two. A test function is
//! a plain function with a runtime of its own, so it can be called again.

use yakumo_db::Backend;

use super::{access, accounts, bad_input, containers, copies, objects};
use crate::world::BACKEND;

fn on(backend: Backend) {
    BACKEND.set(backend);
    accounts::an_account_comes_to_be_by_itself();
    access::projects_are_apart();
    containers::a_container_lives_from_put_to_delete();
    containers::listings_are_ordered_bounded_and_folded();
    containers::quotas_of_a_container_hold();
    containers::containers_that_come_at_once_keep_the_bound();
    copies::a_copy_is_an_object_of_its_own();
    objects::what_goes_in_comes_out();
    objects::names_may_hold_anything();
    objects::conditions_are_kept();
    objects::a_post_replaces_metadata_and_keeps_the_data();
    objects::many_writers_of_one_object_leave_one_object();
    objects::an_object_goes_when_its_time_is_over();
    bad_input::names_that_cannot_be_are_refused();
}

#[test]
fn it_behaves_alike_on_postgresql() {
    on(Backend::Postgres);
}

#[test]
fn it_behaves_alike_on_mariadb() {
    on(Backend::Mysql);
}
