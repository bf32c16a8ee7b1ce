"""What holds for every page: it fits, it speaks both languages, and it says what could not be read."""

import re

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from control_plane.settings import Settings
from tests.ui.conftest import Dev, Visitor
from tests.ui.everywhere import DRAWN
from tests.ui.steps import UNAVAILABLE, forgiven, register

pytestmark = pytest.mark.browser

PARTS = r"/readyz$|/api/v1/(hosts/[\w-]+$|events\?|tasks/|projections)"
PAGES = ("/hosts", "/run", "/tasks", "/audit", "/system")
TABS = ("approvals", "rules", "templates", "people", "tokens", "enrolment", "account")
# How many tables are wider than the place that they have.
CUT_OFF = "() => [...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth).length"


@pytest.mark.parametrize(
    ("path", "request_of", "filtered", "wanted", "kept", "gone"),
    [
        ("/hosts", r"/api/v1/hosts\?", "Filter by name", "sim-0002", "sim-0002", "sim-0001"),
        ("/tasks", r"/api/v1/tasks\?(?!.*state=running)", "Filter by command", "echo this", "echo this", "echo that"),
        ("/audit", r"/api/v1/events\?", "Hostname", "sim-0002", "sim-0002", "sim-0001"),
    ],
)
def test_a_list_that_could_not_be_read_is_whole_after_trying_again(
    visitor: Visitor,
    page: Page,
    dev: Dev,
    path: str,
    request_of: str,
    filtered: str,
    wanted: str,
    kept: str,
    gone: str,
) -> None:
    for hostname, command in (("sim-0001", "echo that"), ("sim-0002", "echo this")):
        dev.api.finished(dev.api.run({"host": hostname}, command))
    page.route(re.compile(request_of), lambda route: route.fulfill(status=503, json=UNAVAILABLE), times=2)
    page.goto(dev.url + path)
    problem = page.get_by_role("alert").filter(has_text="not now")
    expect(problem).to_be_visible()
    expect(page.get_by_role("table")).to_have_count(0)
    page.get_by_role("button", name="Try again").click()
    expect(problem).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    rows = page.get_by_role("table").first.get_by_role("row")
    expect(rows.filter(has_text=gone).first).to_be_visible()
    expect(problem).to_have_count(0)

    page.get_by_label(filtered).fill(wanted)
    page.get_by_label(filtered).press("Enter")
    expect(rows.filter(has_text=gone)).to_have_count(0)
    expect(rows.filter(has_text=kept).first).to_be_visible()
    forgiven(visitor, "503")


def test_a_problem_has_the_name_of_its_request_to_copy(visitor: Visitor, page: Page, dev: Dev) -> None:
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    body = {**UNAVAILABLE, "request_id": "868769de92b1253f"}
    page.route(re.compile(r"/api/v1/hosts\?"), lambda route: route.fulfill(status=503, json=body))
    page.goto(f"{dev.url}/hosts")
    page.get_by_role("alert").get_by_role("button", name="Copy 868769de92b1253f").click()
    expect(page.get_by_role("alert").get_by_text("Copied")).to_be_visible()

    assert page.evaluate("() => navigator.clipboard.readText()") == "868769de92b1253f"
    forgiven(visitor, "503")


def test_a_page_whose_parts_could_not_be_read_is_whole_after_trying_again(
    visitor: Visitor, page: Page, dev: Dev
) -> None:
    task_id = dev.api.run({"host": "sim-0001"}, "echo whole")
    dev.api.finished(task_id)
    page.route(re.compile(PARTS), lambda route: route.fulfill(status=503, json=UNAVAILABLE))
    page.goto(f"{dev.url}/tasks/{task_id}")
    expect(page.get_by_role("alert")).to_have_count(1)
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("pre").filter(has_text="whole")).to_be_visible()
    page.route("**/api/v1/events?*", lambda route: route.fulfill(status=503, json=UNAVAILABLE))
    page.get_by_role("link", name="Events").click()
    expect(page.get_by_role("alert")).to_have_count(1)
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("row").filter(has_text="execution.finished")).to_be_visible()

    # Readiness is read again by itself, so nobody presses its button.
    page.clock.install()
    panel = page.locator("section").filter(has_text="Read tables")
    for path, parts, place in (("/hosts/sim-0001", 1, page.locator("main")), ("/system", 2, panel)):
        page.route(re.compile(PARTS), lambda route: route.fulfill(status=503, json=UNAVAILABLE))
        page.goto(dev.url + path)
        expect(page.get_by_role("alert")).to_have_count(parts)
        page.unroute_all()
        place.get_by_role("button", name="Try again").click()
        page.clock.run_for(10_000)
        expect(page.get_by_role("alert").filter(visible=True)).to_have_count(0)
    expect(page.get_by_role("row").filter(has_text="database")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="audit")).to_be_visible()
    forgiven(visitor, "503")


@pytest.mark.parametrize(
    ("path", "request_of"),
    [
        ("/hosts", r"/api/v1/hosts\?"),
        ("/hosts/sim-0001", r"/api/v1/(hosts/sim-0001|tasks\?hostname|events\?)"),
        ("/system", r"/readyz$|/api/v1/(projections|audit/checkpoint)"),
    ],
)
def test_nothing_moves_while_a_page_is_read_piece_by_piece(page: Page, dev: Dev, path: str, request_of: str) -> None:
    page.add_init_script(
        """const wait = setTimeout; // nothing is shown before it is there: a second is a minute, for a slow machine
        globalThis.setTimeout = (work, ms, ...more) => wait(work, ms >= 1000 ? 60 * ms : ms, ...more);
        globalThis.shift = 0;
        const add = (list) => list.getEntries().forEach(({ value }) => (globalThis.shift += value));
        new PerformanceObserver(add).observe({ type: "layout-shift", buffered: true });"""
    )
    held: list[Route] = []
    page.route(re.compile(request_of), lambda route: held.append(route))
    page.goto(dev.url + path)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    for _ in range(20):
        page.evaluate(DRAWN)
        if held:
            held.pop().continue_()
    page.unroute_all()
    expect(page.locator(".unread")).to_have_count(0)
    page.evaluate(DRAWN)

    assert page.evaluate("() => shift") < 0.02


@pytest.mark.parametrize("path", [*PAGES, *(f"/access?tab={tab}" for tab in TABS)])
def test_a_page_fits_a_telephone_and_speaks_chinese(browser: Browser, dev: Dev, path: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, locale="zh-CN", color_scheme="dark")
    visitor = Visitor(context)
    visitor.enter(dev)
    page = visitor.page()
    page.goto(dev.url + path)
    page.get_by_role("heading", level=1, name=re.compile(r"[\u4e00-\u9fff]")).wait_for()

    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    assert page.evaluate(CUT_OFF) == 0
    page.get_by_role("button", name="偏好设置").click()
    for control in ("主题", "语言"):
        expect(page.get_by_label(control)).to_be_in_viewport(ratio=1)
    assert visitor.complaints == []
    context.close()


def test_a_host_and_a_task_fit_a_telephone_as_a_whole(page: Page, dev: Dev) -> None:
    name = "a-server-with-quite-a-long-name.eu-central-1.example.com"
    register(dev, name, "long")
    task_id = dev.api.run({"all": True}, "echo " + "a-long-line-without-a-gap" * 8, when_offline="skip")
    dev.api.finished(task_id)
    dev.api.http.delete(f"/hosts/{name}")
    page.set_viewport_size({"width": 360, "height": 740})
    tabs = [f"/tasks/{task_id}?tab={tab}" for tab in ("hosts", "events", "hosts&host=sim-0001")]
    for path in (f"/tasks/{task_id}", *tabs, "/hosts/sim-0001", "/tasks", f"/hosts?state=retired&q={name}"):
        page.goto(dev.url + path)
        page.locator(".segments button, tbody tr").first.wait_for()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
        assert page.evaluate(CUT_OFF) == 0


def test_a_chinese_page_says_in_chinese_what_went_wrong_and_why(browser: Browser, dev: Dev) -> None:
    refused = dev.api.run({"host": dev.hostname}, "id", user="nobody-of-this-name")
    dev.api.finished(refused)
    context = browser.new_context(locale="zh-CN")
    visitor = Visitor(context)
    visitor.enter(dev)
    page = visitor.page()
    page.goto(f"{dev.url}/hosts/nosuch")
    expect(page.get_by_role("alert")).to_contain_text("没有这台主机。")
    page.goto(f"{dev.url}/hosts/sim-0001")
    expect(page.get_by_text("收到心跳").first).to_be_visible()
    page.goto(f"{dev.url}/tasks/{refused}")
    expect(page.get_by_text("这台主机上没有账号 nobody-of-this-name").first).to_be_visible()
    expect(page.get_by_role("status").filter(has_text=re.compile(r"\d 秒"))).to_be_visible()
    page.goto(f"{dev.url}/run?hosts=nosuch&command=reboot")
    expect(page.get_by_text("nosuch: 未注册")).to_be_visible()
    page.goto(f"{dev.url}/run?q=foo:bar&command=reboot")
    expect(page.get_by_role("alert").first).to_contain_text("没有字段 foo；可用的有 name, state")
    page.goto(f"{dev.url}/run?host=sim-0001&command=reboot")
    expect(page.get_by_text("3: 重启或关闭机器")).to_be_visible()
    context.close()


def test_the_policy_is_strict_and_files_are_immutable(dev: Dev) -> None:
    index = dev.api.http.get(f"{dev.url}/hosts")
    policy = index.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "trusted-types 'none'" in policy
    assert "unsafe" not in policy
    [script] = re.findall(r'src="(/ui/[^"]+main\.js)"', index.text)
    assert "immutable" in dev.api.http.get(dev.url + script).headers["cache-control"]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_shown_with_far_fewer_requests_than_a_session_may_make_in_a_second(
    visitor: Visitor, page: Page, dev: Dev, path: str
) -> None:
    asked: list[str] = []
    page.goto("about:blank")  # what the page before asks for is not of this one
    page.on("request", lambda request: asked.append(request.url) if "/api/v1/" in request.url else None)
    page.goto(dev.url + path)
    expect(page.locator("#pill")).to_have_text("Live")
    page.wait_for_load_state("load")

    assert 1 <= len(asked) <= 0.6 * Settings.model_fields["session_rate"].default, asked


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("/tasks?state=constructor", "No task matches"),
        ("/hosts?sort=__proto__", "sim-0001"),
        ("/hosts/sim-0001?range=toString", "heartbeats? shown"),
        ("/hosts/%E0%A4%A", "no page"),
    ],
)
def test_an_address_says_nothing_by_the_names_that_every_object_has(
    page: Page, dev: Dev, address: str, shown: str
) -> None:
    page.goto(dev.url + address)

    expect(page.locator("main").get_by_text(re.compile(shown)).first).to_be_visible()
    expect(page.locator(".problem")).to_have_count(0)
