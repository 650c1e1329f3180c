"""Writes `map/routes.md` from the table: `python -m tests.contract.routes.map`."""

from tests.contract.index import HERE
from tests.contract.routes.table import ROWS

REPLIES = "tests/contract/routes/test_replies.py"
MODES = "tests/contract/routes/test_modes.py"
SOCKETS = "tests/server/test_sockets.py"
SYSTEM = "tests/server/test_system.py"
KEYS = "tests/server/test_keys.py"
OTHERS = {
    "GET /ws 101": f"{SOCKETS}::test_the_greeting_counts_waiting_and_running_prompts_and_names_the_client",
    "GET /settings 401": f"{MODES}::test_an_unknown_user_is_refused",
    "GET /settings/{id} 401": f"{MODES}::test_an_unknown_user_is_refused",
    "POST /settings 401": f"{MODES}::test_an_unknown_user_is_refused",
    "POST /users 200": f"{REPLIES}::test_a_user_is_made_once",
    "DELETE /userdata/{file} 204": f"{REPLIES}::test_a_file_comes_and_goes",
    "POST /userdata/{file}/move/{dest} 200": f"{REPLIES}::test_a_file_comes_and_goes",
    "GET /api/jobs/{id} 200": f"{REPLIES}::test_a_finished_job_is_told_with_outputs_status_and_workflow",
    "GET /templates/{file} 200": f"{SYSTEM}::test_the_own_workflows_are_offered_as_templates",
    "GET /{file} 200": f"{SYSTEM}::test_the_page_is_never_kept_and_scripts_are_asked_for_again",
    "message status": f"{SOCKETS}::test_the_greeting_counts_waiting_and_running_prompts_and_names_the_client",
    "message feature_flags": f"{SOCKETS}::test_the_first_frame_tells_the_features_and_is_answered",
    "message progress_state": f"{SOCKETS}::test_progress_state_tells_every_node",
    "message execution_interrupted": (
        f"{SOCKETS}::test_of_a_prompt_without_client_all_hear_progress_and_interruption_only"
    ),
    "message logs": f"{SOCKETS}::test_log_lines_go_to_subscribers_only",
    "frame PREVIEW_IMAGE": f"{SOCKETS}::test_a_plain_preview_comes_after_its_progress",
    "frame PREVIEW_IMAGE_WITH_METADATA": f"{SOCKETS}::test_a_preview_with_metadata_comes_before_its_progress",
    "seed-S25": f"{REPLIES}::test_the_server_sets_create_time_in_milliseconds",
    "Z7": f"{REPLIES}::test_the_server_sets_create_time_in_milliseconds",
    "seed-S30": "tests/cli/test_report.py::test_a_report_holds_what_a_bug_needs_and_no_secret",
    "flags of the command line": "tests/contract/test_flags.py::test_a_flag_with_a_value_has_its_default_and_takes_its_values",
    "API keys": f"{KEYS}::test_history_is_shown_to_its_owner_and_to_administrators",
    "OpenAPI": f"{REPLIES}::test_a_reply_is_one_that_the_document_declares",
}
MESSAGES = "tests/contract/routes/test_messages.py"
RUN = f"{MESSAGES}::test_a_run_is_told_in_the_observed_order"
OF_A_RUN = ("execution_start", "execution_cached", "executing", "executed", "execution_success")


def lines() -> list[str]:
    """The lines of the map."""
    found = {row.name: f"{REPLIES}::test_a_request_gets_its_reply" for row in ROWS}
    found |= {f"message {name}": RUN for name in OF_A_RUN}
    found["message execution_error"] = f"{MESSAGES}::test_a_failure_is_told_with_every_field"
    found["message progress"] = f"{SOCKETS}::test_events_arrive_in_order_and_in_their_wire_form"
    return [f"- {rule}: {test}" for rule, test in (found | OTHERS).items()]


if __name__ == "__main__":
    text = "# Routes and messages\n\nWritten by `python -m tests.contract.routes.map`.\n\n"
    (HERE / "map" / "routes.md").write_text(text + "\n".join(lines()) + "\n", encoding="utf-8")
