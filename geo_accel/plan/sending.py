# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How a codec is best sent: the exchange, the hub and the ratios that the time model prefers."""

from dataclasses import dataclass, replace
from math import ceil

from geo_accel.config.names import AUTO, SPARSE_CHUNK, SPARSE_CODECS, Coefficients, Exchange, Mode, Residual
from geo_accel.config.parts import Overlap
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.cost import Cost, exchange_for, sparse_bytes
from geo_accel.plan.members import Members
from geo_accel.plan.ratios import GRID, coefficients, per_site
from geo_accel.plan.request import BUDGET, Request
from geo_accel.profile.profile import Profile

# A ratio that was not stated, and that no link can be asked for.
_DEFAULT_SHARE = 0.05
# How much of BCRS's coefficients goes by ratio.
_BLEND = 0.5
# A round costs its messages and the threads that they wake, however little it carries: 1 ms of a processor with two
# sites, 3 to 8 with four. So there are few, but not one for all: over four seeds at a period of 8, the loss with 8, 4,
# 2 rounds and 1 was 1.6102, 1.6096, 1.6107 and 1.6124.
_FEWEST_ROUNDS = 4
# Each is over after this share of a step, which leaves the rest for sites that are late,
_SHARE_OF_STEP = 0.5
# and none needs more memory than so many values do.
_MOST_VALUES = 16_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """Chooses for one request, one model and its sites.

    `careful` is always a profile over links of which only a safe part counts, or None where nothing was measured.
    """

    request: Request
    values: int
    """Elements that a rank carries of the whole model."""
    members: Members

    @property
    def sites(self) -> int:
        """How many there are."""
        return len(self.members)

    def averaging(self, codec: str, period: int, careful: Profile | None = None) -> Averaging:
        """How `codec` is best sent and averaged in a plan of `period`: exchange, hub and ratios by the time model.

        Without the `careful` profile, or links in it, nothing can be compared and the usual exchange is taken.
        """
        sparse, fixed = codec in SPARSE_CODECS, self.request.exchange
        known = careful if careful is not None and careful.link is not None else None
        if fixed != AUTO:
            exchanges = [fixed]
        elif known is not None:
            exchanges = [Exchange.DIRECT, *([] if sparse else [Exchange.TWO_SHOT]), Exchange.HUB]
        else:
            exchanges = [Exchange.DIRECT if sparse else exchange_for(self.sites)]
        if known is None:
            rule = self._rule(codec, exchanges[0], 0)
        else:
            rules = [
                self._with_ratios(self._rule(codec, one, self._best_hub(known)), period, known) for one in exchanges
            ]
            rule = min(rules, key=lambda rule: self._preference(rule, period, known))
        if self.request.coefficients == Coefficients.EQUAL:
            return rule
        shares = [float(ranks) for ranks in self.members.ranks] or None
        blend = _BLEND if self.request.coefficients == Coefficients.BLEND else 0.0
        return replace(rule, coefficients=coefficients(rule.kept or [1] * self.sites, shares, blend))

    def _preference(self, rule: Averaging, period: int, careful: Profile) -> tuple[int, float]:
        """Less is better. With a free ratio every exchange fills the window: the one that carries most is best."""
        cost = self.cost(rule, careful)
        seconds = cost.seconds(self.values / self.rounds_in(period, cost))
        return (-sum(rule.kept) if self._ratio_is_open(rule) else 0, seconds)

    def _ratio_is_open(self, rule: Averaging) -> bool:
        return rule.sparse and self.request.ratio == AUTO

    def _rule(self, codec: str, exchange: str, hub: int) -> Averaging:
        hub = hub if exchange == Exchange.HUB else 0
        if codec not in SPARSE_CODECS:
            return Averaging(codec=codec, exchange=exchange, hub=hub)
        # Measured (benchmarks/results/loss-h100-2026-11-26.md): the rest is best left in the weights, where overlap
        # weighting does no good.
        overlap = False if self.request.overlap == AUTO else self.request.overlap
        if isinstance(overlap, bool):
            overlap = Overlap.mean_of_senders(self.sites) if overlap else Overlap()
        residual = Residual.WEIGHTS if self.request.residual == AUTO else self.request.residual
        share = _DEFAULT_SHARE if self.request.ratio == AUTO else self.request.ratio
        kept = max(1, round(share * SPARSE_CHUNK))
        return Averaging(
            codec=codec,
            exchange=exchange,
            hub=hub,
            kept=(kept,) * self.sites,
            residual=residual,
            overlap=overlap,
        )

    def _with_ratios(self, rule: Averaging, period: int, careful: Profile) -> Averaging:
        """BCRS: the ratio, or every site's, whose rounds just fit into the window; the least of `GRID` at worst."""
        if not self._ratio_is_open(rule):
            return rule
        window = self.window(careful) * period
        assert careful.link is not None  # else there is nothing to compare
        latency_s, links = careful.link.latency_s, self.members.in_order(careful.links)
        unlike = len(links) == self.sites and len({link.seconds_per_byte for link in links}) > 1
        chosen = None
        for least in GRID:
            options = [replace(rule, kept=(least,) * self.sites)]
            if unlike:
                # What faster uplinks can send meanwhile, and no more than what the downlinks bear: the model tells.
                ratios = per_site(links, least, self.values, lambda kept: sparse_bytes(rule.codec, kept))
                options.append(replace(rule, kept=ratios))
            for option in options:
                cost = self.cost(option, careful)
                rounds = self.rounds_in(period, cost)
                busy = cost.seconds(self.values) + (rounds - 1) * cost.messages * latency_s
                if busy <= window or chosen is None:
                    chosen = option
        assert chosen is not None  # the grid is not empty
        return chosen

    def _best_hub(self, profile: Profile) -> int:
        links = self.members.in_order(profile.links)
        if len(links) != self.sites:
            return 0
        return min(range(self.sites), key=lambda site: max(links[site].seconds_per_byte, links[site].down))

    def window(self, careful: Profile) -> float:
        """Seconds of every step in which a transfer costs no more than the budget."""
        budget = BUDGET[self.request.mode]
        if self.request.mode == Mode.STREAM:
            return careful.compute_s * (1 + budget)
        return careful.compute_s * budget + (self.request.mode == Mode.BACKWARD) * careful.backward_s

    def rounds_in(self, period: int, cost: Cost) -> int:
        """Few rounds, but short and small enough ones, and no more than their latencies leave room for, or cost a
        tenth; in the other modes one per step."""
        if self.request.mode != Mode.STREAM or cost.profile.link is None:
            return period
        latency, step_s = cost.messages * cost.profile.link.latency_s, cost.profile.compute_s
        transfer = cost.seconds(self.values) - latency
        needed = max(ceil(transfer / (_SHARE_OF_STEP * step_s)), ceil(self.values / _MOST_VALUES), _FEWEST_ROUNDS)
        room = max(period * step_s - transfer, 0.1 * transfer)
        most = max(1, int(room / latency)) if latency > room / period else period
        return min(needed, most, period)

    def cost(self, averaging: Averaging, profile: Profile) -> Cost:
        """The costs of rounds that are averaged so."""
        return Cost(profile=profile, averaging=averaging, members=self.members)
