"""The programming tasks: a walker, a filler of shadow entries, a balloon policy, a page sharer."""

from types import MappingProxyType

from kvmlab.course.task import Task
from kvmlab.course.task_policy import policy_case, policy_judge
from kvmlab.course.task_shadow import shadow_case, shadow_judge
from kvmlab.course.task_share import share_case, share_judge
from kvmlab.course.task_walker import walker_case, walker_judge

TASKS = MappingProxyType(
    {
        one.name: one
        for one in (
            Task("walker", "walk", walker_case, walker_judge),
            Task("shadow", "fill", shadow_case, shadow_judge),
            Task("policy", "policy", policy_case, policy_judge),
            Task("sharer", "share", share_case, share_judge),
        )
    }
)
