"""diffusers' networks of unCLIP by their configs, and what its prior and text projection are given."""

import diffusers
import torch
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from unclip_cases import TIMES


def peer_of(told):
    """The network of a config."""
    kinds = {"UnCLIPTextProjModel": UnCLIPTextProjModel}
    name = told["_class_name"]
    make = kinds[name] if name in kinds else getattr(diffusers, name)
    return make(**{key: value for key, value in told.items() if key != "_class_name"}).eval()


def predicted(peer, x, cond):
    """What a prior says of embeddings at `TIMES`: as its pipeline calls it, with a mask, without which it is not causal."""
    given, mask = {}, torch.ones(2, 0, dtype=torch.bool)
    if "tokens" in cond:
        given["encoder_hidden_states"] = torch.tensor(cond["tokens"])
        mask = torch.arange(cond["tokens"].shape[1])[None] < torch.tensor(cond["length"])[:, None]
    with torch.no_grad():
        y = peer(
            torch.tensor(x), torch.tensor(TIMES), torch.tensor(cond["pooled"]), attention_mask=mask, **given
        ).predicted_image_embedding
    return y.reshape(2, -1)


def projected(peer, image, text, tokens):
    """(tokens, embedding) of a text projection, first without the picture and then with it."""
    with torch.no_grad():
        return peer(
            image_embeddings=torch.tensor(image),
            prompt_embeds=torch.tensor(text).repeat(2, 1),
            text_encoder_hidden_states=torch.tensor(tokens).repeat(2, 1, 1),
            do_classifier_free_guidance=True,
        )
