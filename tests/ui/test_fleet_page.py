"""What is wrong: the fleet, a host, and a host that is added."""

import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.servers import wait_until
from tests.ui.conftest import SIMULATED, Dev, Visitor
from tests.ui.many_hosts import a_host, answer_hosts, drawn, rows_of, say, stream_by_hand
from tests.ui.steps import a_key, at_fleet, forgiven, heading

pytestmark = pytest.mark.browser

LOADED_MS = 30_000  # for thousands of hosts, which the test answers itself


def test_this_machine_is_online_with_all_the_others(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    row = page.get_by_role("row").filter(has_text=dev.hostname)

    expect(row).to_contain_text("Online")
    expect(page.get_by_role("button", name=re.compile(f"^{SIMULATED + 1} hosts"))).to_be_visible()
    page.get_by_label("Filter by name").fill("sim-0002")
    expect(page.get_by_role("row")).to_have_count(2)
    expect(page.get_by_role("button", name="1 host", exact=True)).to_be_visible()
    page.get_by_role("link", name="sim-0002").click()
    heading(page, "sim-0002")
    expect(page.get_by_text("Simulated GNU/Linux")).to_be_visible()
    expect(page.get_by_role("table").last.get_by_role("row").nth(1)).to_contain_text("%")


def test_what_a_host_says_of_itself_is_marked_everywhere(page: Page, dev: Dev) -> None:
    said = {"os": "Linux\u202e6", "kernel": "k\u200bl", "agent_version": "1.0\u2066", "addresses": ["10.0.0.1\u202d"]}
    said |= {"runs_as": "dep\u202eloy", "limits_missing": ["memory", "pids\u202e"]}

    def deceitful(route: Route) -> None:
        answer = route.fetch().json()
        hosts = [row | said for row in answer["items"]] if "items" in answer else None
        route.fulfill(json=answer | said if hosts is None else {**answer, "items": hosts})

    page.route(re.compile(r"/api/v1/hosts(\?|/sim-0001$)"), deceitful)
    page.route("**/api/v1/hosts/sim-0001?min_seq=*", lambda _: None)
    page.route("**/stream?*", lambda route: route.fulfill(content_type="text/event-stream", body=""))
    page.goto(f"{dev.url}/hosts")
    expect(page.get_by_role("row").filter(has_text="sim-0001")).to_contain_text("1.0U+2066")
    page.goto(f"{dev.url}/hosts/sim-0001")
    for shown in ("LinuxU+202E6 · kU+200Bl", "1.0U+2066", "10.0.0.1U+202D", "depU+202Eloy only", "memory, pidsU+202E"):
        expect(page.get_by_text(shown)).to_be_visible()

    assert not re.search("[\u200b-\u200f\u202a-\u202e\u2066-\u2069]", page.locator("main").inner_text())


def test_what_is_run_on_a_host_comes_to_its_page_and_nothing_else_does(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/hosts/sim-0002")
    expect(page.get_by_role("row").filter(has_text="%").first).to_be_visible()
    dev.api.finished(dev.api.run({"host": "sim-0003"}, "echo elsewhere"))
    dev.api.finished(dev.api.run({"hosts": ["sim-0002", "sim-0003"]}, "echo on this host, too"))

    row = page.get_by_role("row").filter(has_text="echo on this host, too")
    expect(row).to_contain_text("2 ok")
    expect(page.get_by_role("row").filter(has_text="echo elsewhere")).to_have_count(0)


def test_a_host_is_added_by_a_token_that_is_made_once_it_is_asked_for_and_shown_once(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    made: list[object] = []
    page.on("request", lambda request: made.append(request) if "/enrolment-tokens" in request.url else None)
    page.get_by_role("button", name="Add host").click()
    page.get_by_label(re.compile("^Hostname")).fill("web-9")
    page.get_by_label(re.compile("^Groups .separated")).fill("web, eu")
    assert made == []
    with page.expect_request("**/enrolment-tokens") as asked:
        page.get_by_role("button", name="Make a token").click()

    assert asked.value.post_data_json == {"hostname": "web-9", "groups": ["web", "eu"]}
    expect(page.locator("pre")).to_contain_text(
        re.compile("control-plane-agent enrol --server .* --token cpe_.* --hostname web-9")
    )
    expect(page.get_by_role("button", name="Make a token")).to_be_hidden()
    assert len(made) == 1


@pytest.fixture
def stream(dev: Dev) -> str:
    """The position that a page may follow from."""
    position: str = dev.api.get("/hosts")["as_of"]
    return position


@pytest.fixture
def many(page: Page, dev: Dev, stream: str) -> Page:
    """Ten thousand hosts, of which nothing changes but by `say`."""
    stream_by_hand(page)
    answer_hosts(page, [a_host(number) for number in range(10_000)], as_of=stream)
    page.route("**/api/v1/hosts/web-*", lambda _: None)  # the server has no such host: its page waits
    page.goto(f"{dev.url}/hosts")
    expect(page.get_by_role("button", name="10000 hosts")).to_be_visible(timeout=LOADED_MS)
    expect(page.get_by_text("hosts are here so far")).to_be_hidden()
    return page


def test_a_query_is_run_as_it_is_typed_and_what_is_wrong_in_it_is_marked_while_the_list_stays(
    page: Page, dev: Dev
) -> None:
    at_fleet(page, dev)
    field = page.get_by_role("searchbox", name="Filter by name")
    field.fill("sim-0002,sim-0003 state:online")
    expect(rows_of(page)).to_have_count(2)
    assert page.url.endswith("/hosts?q=sim-0002%2Csim-0003+state%3Aonline")

    field.fill("sim-0001 foo:bar -os:x")
    wrong = page.get_by_role("alert")
    expect(wrong).to_contain_text("unknown field foo; there are name, state, group, label, os, agent, is")
    expect(wrong.locator("mark")).to_have_text("foo:bar")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description(re.compile("unknown field foo"))
    expect(rows_of(page)).to_have_count(2)
    page.reload()
    expect(wrong).to_contain_text("unknown field foo")
    expect(rows_of(page)).to_have_count(SIMULATED + 1)

    field.fill("sim os:plan9")
    expect(page.get_by_text("No host matches os:plan9.")).to_be_visible()
    field.fill("-sim*")
    expect(wrong).to_be_empty()
    expect(rows_of(page)).to_have_count(1)
    expect(rows_of(page)).to_contain_text(dev.hostname)


def test_states_and_groups_are_counted_from_the_hosts_that_the_list_shows(many: Page) -> None:
    page = many
    table = page.get_by_role("table")
    page.get_by_role("button", name="400 Offline").click()
    expect(table).to_have_attribute("aria-rowcount", "401")
    assert page.url.endswith("/hosts?state=offline")
    bar = page.get_by_role("button", name=re.compile("^g03 500 400 Online|^g03 500"))
    expect(bar).to_contain_text("100 Offline")
    bar.click()
    expect(table).to_have_attribute("aria-rowcount", "101")
    expect(page.get_by_role("button", name="100 Offline").first).to_have_attribute("aria-pressed", "true")
    expect(bar).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name=re.compile("^g1"))).to_have_count(0)
    page.get_by_role("button", name="12 more groups").click()
    expect(page.get_by_role("button", name=re.compile("^g1"))).to_have_count(10)
    bar.click()
    page.get_by_role("button", name="10000 hosts").click()
    assert page.url.endswith("/hosts")


def test_without_a_group_there_are_no_bars(page: Page, dev: Dev, stream: str) -> None:
    stream_by_hand(page)
    answer_hosts(page, [a_host(1, groups=[], groups_bound=None)], as_of=stream)
    page.goto(f"{dev.url}/hosts")
    expect(rows_of(page)).to_have_count(1)

    expect(page.get_by_role("group", name="Hosts by state")).to_be_visible()
    expect(page.locator("details")).to_be_hidden()


def test_of_ten_thousand_rows_those_in_sight_are_in_the_document_and_the_keyboard_reaches_all(many: Page) -> None:
    page = many
    table = page.get_by_role("table")
    focused = page.locator("tr:focus-within")
    expect(table).to_have_attribute("aria-rowcount", "10001")
    assert rows_of(page).count() <= 60
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    expect(focused).to_have_attribute("aria-rowindex", "2")
    page.keyboard.press("End")
    expect(focused).to_have_attribute("aria-rowindex", "10001")
    expect(page.get_by_role("link", name="web-09999")).to_be_focused()
    expect(page.get_by_role("link", name="web-09999")).to_be_in_viewport(ratio=1)
    assert rows_of(page).count() <= 60
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Tab")
    expect(page.get_by_role("checkbox", name="Select web-09999")).to_be_focused()
    page.keyboard.press("Home")
    expect(page.get_by_role("link", name="web-00000")).to_be_focused()
    page.keyboard.press("PageDown")
    for _ in range(40):
        page.keyboard.press("j")
    expect(page.get_by_role("link", name="web-00060")).to_be_focused()

    page.mouse.wheel(0, 90_000)  # the row with the focus stays, however far away
    expect(page.get_by_role("row").nth(30)).to_contain_text("web-02")
    expect(page.get_by_role("link", name="web-00060")).to_be_focused()
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="web-00061")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/hosts/web-00061$"))


def test_a_click_on_a_head_sorts_by_it_and_what_is_not_known_is_last(page: Page, dev: Dev, stream: str) -> None:
    stream_by_hand(page)
    usages = [("a", 0.5), ("b", None), ("c", 0.9), ("d", 0.1)]
    answer_hosts(page, [a_host(1, hostname=name, cpu_usage=usage) for name, usage in usages], as_of=stream)
    page.goto(f"{dev.url}/hosts")
    names = rows_of(page).get_by_role("link")
    expect(names).to_have_text(["a", "b", "c", "d"])
    head = page.get_by_role("columnheader", name="CPU")
    head.get_by_role("button").click()
    expect(names).to_have_text(["c", "a", "d", "b"])
    expect(head).to_have_attribute("aria-sort", "descending")
    assert page.url.endswith("?sort=-cpu_usage")
    head.get_by_role("button").click()
    expect(names).to_have_text(["d", "a", "c", "b"])
    page.reload()
    expect(names).to_have_text(["d", "a", "c", "b"])
    page.get_by_role("columnheader", name="Host").get_by_role("button").click()
    expect(names).to_have_text(["a", "b", "c", "d"])
    assert page.url.endswith("/hosts")


def test_nothing_moves_while_somebody_points_into_the_list(page: Page, dev: Dev, stream: str) -> None:
    stream_by_hand(page)
    answer_hosts(page, [a_host(1, hostname=name) for name in "bcd"], as_of=stream)
    page.goto(f"{dev.url}/hosts?state=online")
    names = rows_of(page).get_by_role("link")
    rows_of(page).first.hover()
    say(page, a_host(1, hostname="a"), a_host(1, hostname="c", state="offline"))
    apply = page.get_by_role("button", name="2 changes · apply")
    expect(apply).to_be_visible()
    expect(names).to_have_text(["b", "c", "d"])
    expect(rows_of(page).nth(1)).to_contain_text("Offline")  # its values do change
    apply.click()
    expect(names).to_have_text(["a", "b", "d"])
    expect(apply).to_be_hidden()

    rows_of(page).get_by_role("checkbox").first.focus()
    page.mouse.move(5, 5)
    say(page, a_host(1, hostname="aa"), pos=3)
    expect(page.get_by_role("button", name="1 change · apply")).to_be_visible()
    page.get_by_role("searchbox", name="Filter by name").focus()  # and once one has left it, all is as it is
    expect(names).to_have_text(["a", "aa", "b", "d"])


def test_a_host_in_maintenance_or_with_other_groups_than_it_should_have_is_marked(
    page: Page, dev: Dev, stream: str
) -> None:
    stream_by_hand(page)
    hosts = [
        a_host(1, hostname="a", maintenance=True),
        a_host(1, hostname="b", groups=["web", "db"], groups_bound=["web"], drift=True),
        a_host(1, hostname="c", state="retired", maintenance=True),
    ]
    answer_hosts(page, hosts, as_of=stream)
    page.goto(f"{dev.url}/hosts")

    expect(rows_of(page).nth(0)).to_contain_text("Maintenance")
    expect(rows_of(page).nth(1)).to_contain_text("web, db ≠ web")
    page.get_by_role("button", name="1 Maintenance").click()
    expect(rows_of(page)).to_have_count(1)
    page.get_by_role("button", name="1 Retired").click()
    expect(rows_of(page)).to_have_text(re.compile("^c"))


def test_tiles_are_a_listbox_whose_option_follows_the_cursor(many: Page) -> None:
    page = many
    page.get_by_role("button", name="Tiles").click()
    box = page.get_by_role("listbox", name="Hosts as tiles")
    expect(box.locator("canvas")).to_be_visible()
    expect(page.get_by_role("table")).to_have_count(0)
    assert page.url.endswith("?view=grid")
    box.focus()
    option = box.get_by_role("option")
    expect(option).to_have_text("web-00000: Online · g00")
    page.keyboard.press("ArrowRight")
    expect(option).to_have_text("web-00020: Online · g00")
    expect(option).to_have_attribute("aria-posinset", "2")
    expect(option).to_have_attribute("aria-setsize", "10000")
    assert box.get_attribute("aria-activedescendant") == option.get_attribute("id")
    page.keyboard.press("End")
    expect(option).to_have_text("web-09999: Online · g19")
    expect(option).to_be_in_viewport()
    page.keyboard.press("Space")
    expect(option).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("link", name="Run on 1 host")).to_have_attribute("href", "/run?hosts=web-09999")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Home")
    expect(page.get_by_role("list", name="What the tiles mean").get_by_role("listitem")).to_have_count(6)
    box.locator("canvas").hover(position={"x": 5, "y": 30})
    expect(page.locator(".tip")).to_have_text("web-00000: Online · g00")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/hosts/web-00000$"))


def test_only_tiles_that_change_are_drawn_again_and_all_of_them_in_another_theme(
    page: Page, dev: Dev, stream: str
) -> None:
    page.add_init_script(
        """{
          window.copied = 0;
          const copy = CanvasRenderingContext2D.prototype.drawImage;
          CanvasRenderingContext2D.prototype.drawImage = function (...given) {
            window.copied += 1;
            return copy.apply(this, given);
          };
        }"""
    )
    stream_by_hand(page)
    answer_hosts(page, [a_host(number, groups=["web"]) for number in range(300)], as_of=stream)
    page.emulate_media(color_scheme="light")
    page.goto(f"{dev.url}/hosts?view=grid")
    canvas = page.locator("canvas")
    seen = """(canvas) => {
      const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
      copy.drawImage(canvas, -6, -32);
      return [...copy.getImageData(0, 0, 1, 1).data].join();
    }"""
    page.wait_for_function("() => window.copied >= 300")
    assert canvas.evaluate(seen) == "11,122,67,255"  # --ok
    page.evaluate("() => (window.copied = 0)")
    say(page, *(a_host(number, groups=["web"], state="pending") for number in range(10, 14)))
    assert page.evaluate("() => window.copied") == 4

    page.get_by_role("button", name="Preferences").click()
    page.get_by_label("Theme").select_option("dark")
    assert canvas.evaluate(seen) == "76,195,138,255"
    assert page.evaluate("() => window.copied") == 304
    page.emulate_media(forced_colors="active")
    page.wait_for_function("() => window.copied >= 604")
    assert canvas.evaluate(seen) not in {"76,195,138,255", "11,122,67,255"}


def test_hosts_are_picked_by_key_by_range_and_all_at_once(many: Page) -> None:
    page = many
    run = page.get_by_role("link", name=re.compile("^Run (on|a)"))
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(run).to_have_attribute("href", "/run?hosts=web-00000")
    page.get_by_role("checkbox", name="Select web-00002").click()
    page.get_by_role("checkbox", name="Select web-00005").click(modifiers=["Shift"])
    expect(page.get_by_role("status").filter(has_text="5 selected")).to_be_visible()
    expect(run).to_have_text("Run on 5 hosts")
    page.get_by_role("searchbox", name="Filter by name").fill("group:g01,g02 -state:offline")
    expect(page.get_by_role("status").filter(has_text="5 selected · 4 of them not in this list")).to_be_visible()
    page.get_by_role("button", name="Select none").click()
    expect(run).to_have_attribute("href", "/run")
    page.get_by_role("checkbox", name="Select all 1000 matching").check()
    expect(run).to_have_attribute("href", "/run?q=group%3Ag01%2Cg02+-state%3Aoffline")
    expect(run).to_have_text("Run on 1000 hosts")


def test_what_was_begun_on_many_is_told_on_whichever_page_it_ends(
    page: Page, dev: Dev, request: pytest.FixtureRequest
) -> None:
    names = ["sim-0001", "sim-0002"]
    request.addfinalizer(lambda: [dev.api.http.patch(f"/hosts/{name}", json={"maintenance": False}) for name in names])
    held: list[Route] = []
    page.route("**/api/v1/hosts/sim-*", lambda route: held.append(route))
    at_fleet(page, dev)
    for name in names:
        page.get_by_role("checkbox", name=f"Select {name}").check()
    page.get_by_role("button", name="Maintenance on").click()
    page.get_by_role("link", name="Tasks").click()
    heading(page, "Tasks")
    assert len(held) == 2
    for route in held:
        route.continue_()
    page.unroute_all()

    told = page.locator(".toast").filter(has_text="2 hosts are in maintenance")
    told.get_by_role("button", name="Undo").click()
    expect(page.locator(".toast").filter(has_text="2 hosts are out of maintenance")).to_be_visible()
    is_over = lambda: not any(dev.api.get(f"/hosts/{name}")["maintenance"] for name in names)  # noqa: E731
    wait_until(is_over, timeout_s=10, what="their maintenance is over")


def test_maintenance_is_put_on_many_and_taken_back(
    visitor: Visitor, page: Page, dev: Dev, request: pytest.FixtureRequest
) -> None:
    at_fleet(page, dev)
    names = ["sim-0001", "sim-0002", "sim-0003"]
    request.addfinalizer(lambda: [dev.api.http.patch(f"/hosts/{name}", json={"maintenance": False}) for name in names])
    refused = {"code": "host_exists", "title": "Conflict", "detail": "it is just being changed", "status": 409}
    page.route("**/api/v1/hosts/sim-0003", lambda route: route.fulfill(status=409, json=refused), times=1)
    for name in names:
        page.get_by_role("checkbox", name=f"Select {name}").check()
    page.get_by_role("button", name="Maintenance on").click()
    told = page.locator(".toast").filter(has_text="2 hosts are in maintenance, 1 could not be changed: sim-0003: ")
    expect(told).to_be_visible()
    marked = rows_of(page).filter(has_text="Maintenance")
    expect(marked).to_have_count(2)
    assert dev.api.get("/hosts/sim-0001")["maintenance"] is True

    told.get_by_role("button", name="Undo").click()
    expect(page.locator(".toast").filter(has_text="2 hosts are out of maintenance")).to_be_visible()
    expect(marked).to_have_count(0)
    forgiven(visitor, "409")


def test_whoever_may_not_edit_hosts_is_told_so(page: Page, dev: Dev) -> None:
    answer_me = re.compile("/auth/me")
    page.route(answer_me, lambda r: r.fulfill(json={**r.fetch().json(), "permissions": ["hosts.read"]}))
    page.goto(f"{dev.url}/hosts")
    page.get_by_role("checkbox", name="Select sim-0001").check()

    button = page.get_by_role("button", name="Maintenance on")
    expect(button).to_have_attribute("aria-disabled", "true")
    expect(button).to_have_accessible_description("Needs the permission hosts.edit")


def test_of_more_hosts_than_are_held_the_page_says_so_and_goes_on(page: Page, dev: Dev, stream: str) -> None:
    stream_by_hand(page)
    answer_hosts(page, [a_host(number) for number in range(21_000)], as_of=stream)
    page.goto(f"{dev.url}/hosts")

    said = page.get_by_text("This fleet has 21000 hosts. Only 20000 of them are held here")
    expect(said).to_be_visible(timeout=LOADED_MS)
    expect(page.get_by_role("table")).to_have_attribute("aria-rowcount", "20001")
    page.get_by_role("searchbox", name="Filter by name").fill("web-1999")
    expect(rows_of(page)).to_have_count(10)


def test_who_asks_to_add_a_host_before_the_fleet_is_there_is_not_told_of_old_ones(page: Page, dev: Dev) -> None:
    held: list[Route] = []
    page.route(re.compile(r"/api/v1/hosts\?"), lambda route: held.append(route), times=1)
    page.goto(f"{dev.url}/hosts")
    page.get_by_role("button", name="Add host").click()
    page.get_by_role("button", name="Cancel").click()
    held[0].continue_()
    expect(rows_of(page)).to_have_count(SIMULATED + 1)
    drawn(page)

    expect(page.locator(".toast")).to_have_count(0)


def test_a_host_is_registered_by_hand(visitor: Visitor, page: Page, dev: Dev, request: pytest.FixtureRequest) -> None:
    at_fleet(page, dev)
    request.addfinalizer(lambda: dev.api.http.delete("/hosts/by-hand-1"))
    page.get_by_role("button", name="Add host").click()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Register by hand").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Hostname").fill("by-hand-1")
    dialog.get_by_label("Public key").fill("bm90IGEga2V5")
    dialog.get_by_label("Groups").fill("web, eu")
    dialog.get_by_role("button", name="Register by hand").click()
    expect(dialog.get_by_role("alert")).not_to_be_empty()
    dialog.get_by_label("Public key").fill(a_key())
    dialog.get_by_role("button", name="Register by hand").click()

    expect(page.locator(".toast").filter(has_text="by-hand-1 is registered")).to_be_visible()
    page.mouse.move(5, 5)
    row = rows_of(page).filter(has_text="by-hand-1")
    expect(row).to_contain_text("Pending")
    expect(row).to_contain_text("eu, web")
    forgiven(visitor, "422")


def test_on_a_telephone_a_row_is_two_lines_and_the_list_can_be_sorted(page: Page, dev: Dev, stream: str) -> None:
    stream_by_hand(page)
    hosts = [a_host(1, hostname=f"web-{number}.{'long-' * 12}example") for number in range(40)]
    answer_hosts(page, hosts, as_of=stream)
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{dev.url}/hosts")
    expect(rows_of(page).first).to_be_visible()
    heights = rows_of(page).evaluate_all("(rows) => rows.map((row) => row.getBoundingClientRect().height)")
    assert set(heights) == {64}
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360

    page.get_by_role("columnheader", name="Host").get_by_role("button").click()
    expect(rows_of(page).first).to_contain_text("web-9.")


def test_the_fleet_of_a_moment_is_filtered_and_picked_from_and_not_changed(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/hosts?at={dev.api.get('/events?limit=1')['items'][0]['seq']}")
    page.get_by_role("searchbox", name="Filter by name").fill("sim-0001,sim-0002")
    expect(rows_of(page)).to_have_count(2)
    page.get_by_role("checkbox", name="Select sim-0001").check()

    for name in ("Maintenance on", "Add host"):
        button = page.get_by_role("button", name=name)
        expect(button).to_have_attribute("aria-disabled", "true")
        expect(button).to_have_accessible_description("not while the past is shown")
    page.get_by_role("button", name="Tiles").click()
    expect(page.get_by_role("listbox", name="Hosts as tiles")).to_be_visible()
    assert "at=" in page.url
