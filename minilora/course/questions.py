"""The questions that the course answers by measuring, numbered for the table of claims.

Most are claims of the papers, put as a question that a small model can answer. A claim names the
question it answers, and `notebooks/CLAIMS.md` shows which are still open.
"""

from __future__ import annotations

QUESTIONS: dict[str, tuple[str, str]] = {
    "E1": ("Does W stay as it was, to the bit?", "Hu et al. 2021, 4.1"),
    "E2": ("Does a fresh adapter change nothing, and can it learn if A is zero too?", "4.1"),
    "E3": ("How many numbers does an adapter train?", "Hu et al. 2021, 5.1"),
    "E4": ("Is a merged model equal to base and adapter, and as fast as the base?", "4.1"),
    "E5": ("What do unmerged and bottleneck adapters cost in time?", "Hu et al. 2021, Table 1"),
    "E6": ("At one budget, which places are worth the numbers?", "Hu et al. 2021, Table 5"),
    "E7": ("How much rank is enough, and when is it too much?", "Hu et al. 2021, Tables 6, 18"),
    "E8": ("Does alpha / r or alpha / sqrt(r) free the rate from the rank?", "rsLoRA 2023"),
    "E9": ("How much larger a rate does LoRA want than full training?", "LoRA Without Regret 2025"),
    "E10": ("Does LoRA learn less than full training?", "Biderman et al. 2024"),
    "E11": ("Does LoRA forget less, at equal success?", "Biderman et al. 2024"),
    "E12": ("Does the behaviour of a frozen base change?", "Qi et al. 2023"),
    "E13": ("What does replay of old tasks give back?", "practice"),
    "E14": ("Is full training's change of low rank, or only what it does?", "Biderman et al. 2024"),
    "E15": ("Does LoRA bring directions that W did not have?", "Shuttleworth et al. 2024"),
    "E16": ("Does an adapter amplify what W has weakly?", "Hu et al. 2021, 7.3"),
    "E17": ("Do two ranks, or two seeds, find the same directions?", "Hu et al. 2021, 7.2"),
    "E18": ("In how few random dimensions can a task be learnt?", "Aghajanyan et al. 2020"),
    "E19": ("Do A and B play different parts?", "Zhu et al. 2024"),
    "E20": ("What does noise in the data do to adapters of each rank?", "practice"),
    "E21": ("Do two adapters add without harm when their changes are orthogonal?", "TIES 2023"),
    "E22": ("Which ways to join adapters are exact?", "practice"),
    "E23": ("What do TIES and DARE save?", "TIES 2023, DARE 2024"),
    "E24": ("Is routing better than merging?", "practice"),
    "E25": ("What does a batch of many adapters cost?", "Punica 2023"),
    "E26": ("What do a swap and a rollback cost?", "practice"),
    "E27": ("Does an adapter forget its first job when it learns a second?", "practice"),
    "E28": ("Is a new alphabet a job for LoRA?", "Hu et al. 2021, footnote 6"),
    "E29": ("Where do the bytes of training go?", "Hu et al. 2021, 4.2"),
    "E30": ("How much of a step does a frozen W save?", "LoRA Without Regret 2025"),
    "E31": ("Is LoRA ahead on little data?", "Hu et al. 2021, Table 16"),
    "E32": ("Do large batches cost LoRA more?", "LoRA Without Regret 2025"),
    "E33": ("Is tuning alpha the same as tuning the rate?", "Hu et al. 2021, 4.1"),
}
"""Number -> the question, and where it comes from."""
