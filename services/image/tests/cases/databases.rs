//! What touches the database, once more on the other two. A test function is
//! a plain function with a runtime of its own, so it can be called again.

use yakumo_db::Backend;

use super::{access, data, images, listing, members, quotas, repeats, tickets};
use crate::world::BACKEND;

fn on(backend: Backend) {
    BACKEND.set(backend);
    access::a_private_image_does_not_exist_for_other_projects();
    access::a_public_image_is_used_by_all_and_changed_by_its_owner();
    access::a_community_image_is_found_by_those_who_ask_for_it();
    data::what_goes_in_comes_out();
    data::one_uploads_at_a_time();
    data::an_image_can_be_deleted_while_it_is_read_and_while_it_is_written();
    data::an_upload_that_is_cut_off_leaves_a_queued_image_and_no_bytes();
    images::an_image_lives_from_create_to_delete();
    images::an_id_can_be_chosen_and_is_not_given_twice();
    images::a_deactivated_image_is_closed_to_all_but_administrators();
    listing::pages_follow_each_other_without_gaps();
    listing::filters_leave_what_fits();
    listing::markers_must_be_images_that_the_caller_sees();
    listing::sizes_are_sorted_as_numbers();
    listing::what_a_listing_is_asked_is_bounded();
    members::an_image_is_shared_by_invitation_and_acceptance();
    quotas::images_that_come_at_once_keep_the_quota();
    quotas::uploads_that_run_side_by_side_keep_the_quota();
    quotas::bytes_over_the_quota_are_refused_and_nothing_is_taken();
    quotas::members_that_come_at_once_keep_the_bound();
    repeats::an_image_is_made_once();
    repeats::a_project_is_invited_once();
    tickets::a_host_fetches_what_its_ticket_says();
    tickets::images_are_read_over_the_bus_as_over_rest();
}

#[test]
fn it_behaves_alike_on_postgresql() {
    on(Backend::Postgres);
}

#[test]
fn it_behaves_alike_on_mariadb() {
    on(Backend::Mysql);
}
