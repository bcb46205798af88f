#!/usr/bin/env bash
# Makes the model that ships, from nothing: data, VAE, latents, heads, backbone, side branch and LoRA, export; and the
# side branch of an RGB memory, by the same recipe, that it is compared with.
#
#   launch/train_default.sh cpu     what two CPU cores manage in about seventeen hours: how the shipped weights were made
#   launch/train_default.sh gpu     the same stages with the steps and batches one large GPU affords
#
# Run it from the root of the checkout after `make setup`. It can be stopped at any time: given again, finished stages
# are passed over and the one under way goes on from its last checkpoint. Data goes to data/, runs to runs/. Part of the
# maps are FreeDM's, Debian's package `freedm`, which is installed here where that is allowed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
  cpu)
    # Two virtual devices use two cores better than one device with two threads; more would not divide a batch of 2.
    export XLA_FLAGS="--xla_force_host_platform_device_count=2 ${XLA_FLAGS:-}"
    # glibc gives large buffers back after every step, to be paged in again; jemalloc, where it is installed, keeps them.
    for library in /usr/lib/*/libjemalloc.so.2; do
      [ ! -e "$library" ] || export LD_PRELOAD="$library" MALLOC_CONF="dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always"
    done
    parts=6
    parts_freedm=2
    views=12
    views_freedm=6
    restyled=2 restyled_long=1 restyled_views=3
    stretched_views=8 stretched_plain=4
    vae="--config.steps=4000"
    vae_whole="--config.steps=200"
    vae_decoder="--config.steps=2200"
    vae_more="--config.steps=2200"
    decoder_more="--config.steps=1200"
    vae_places="--config.steps=3000"
    decoder_places="--config.steps=1500"
    decoder_longer="--config.steps=900"
    heads="" backbone="" memory="" one_step=""
    seen="--config.steps=2600 --config.checkpoint_every=100"
    ;;
  gpu)
    parts=25
    parts_freedm=15
    views=30
    views_freedm=20
    restyled=10 restyled_long=8 restyled_views=12
    stretched_views=20 stretched_plain=10
    vae="--config.steps=20000 --config.batch_size=32"
    vae_whole="--config.steps=2000 --config.batch_size=16"
    vae_decoder="--config.steps=8000 --config.batch_size=16"
    vae_more="--config.steps=20000 --config.batch_size=16"
    decoder_more="--config.steps=8000 --config.batch_size=16"
    vae_places="--config.steps=20000 --config.batch_size=16"
    decoder_places="--config.steps=8000 --config.batch_size=16"
    decoder_longer="--config.steps=4000 --config.batch_size=16"
    heads="--config.steps=12000 --config.batch_size=64"
    backbone="--config.steps=12000 --config.batch_size=64 --config.ema_decay=0.999"
    memory="--config.steps=12000 --config.batch_size=64 --config.ema_decay=0.999"
    one_step="--config.steps=2000 --config.batch_size=64 --config.ema_decay=0.999"
    seen="--config.steps=2000 --config.batch_size=64 --config.ema_decay=0.999"
    ;;
  *)
    sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

if [ ! -e /usr/share/games/doom/freedm.wad ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends freedm; } >/dev/null \
    || echo "apt-get could not install freedm" >&2  # the command that needs it says so, if any still does
fi

python=.venv/bin/python
render() {  # folder, seed, further flags
  [ -e "$1/train/part-$(printf %04d "$2")" ] ||
    $python -m experiments.build_dataset --dataset doom --out "$1" --split train --seed "$2" "${@:3}"
}
code() {  # folder of clips, folder to write, further flags; the command itself passes over what is there
  $python -m experiments.build_dataset --dataset latents --source "$1" --checkpoint runs/decoder_longer/model \
    --out "$2" --split train --mirrored "${@:3}"
}
train() {  # name of the run, config, further flags
  [ -e "runs/$1/model" ] || $python -m experiments.train --config "experiments/configs/$2.py" --workdir "runs/$1" "${@:3}"
}

# Long clips, and short ones for the heads, which look at single frames: as many different views as can be had. A part
# is numbered by its seed. Restyled are the same maps in other textures and light, of 17 frames for the
# VAE, long and short. Stretched are rooms of other proportions, with the textures of their map or others.
for ((seed = 0; seed < parts; seed++)); do render data/doom "$seed" --clips 120; done
for ((seed = 40; seed < 40 + parts_freedm; seed++)); do render data/doom "$seed" --game freedm --clips 120; done
for ((seed = 10; seed < 10 + views; seed++)); do render data/doom_views "$seed" --clips 450 --frames 9; done
for ((seed = 40; seed < 40 + views_freedm; seed++)); do
  render data/doom_views "$seed" --game freedm --clips 450 --frames 9
done
vary() {  # folder, parts of each game, first seeds of the two games, further flags
  local part
  for ((part = 0; part < $2; part++)); do
    render "$1" $(($3 + part)) "${@:5}"
    render "$1" $(($4 + part)) --game freedm "${@:5}"
  done
}
vary data/restyled "$restyled" 60 80 --restyled --clips 450 --frames 17
vary data/restyled_long "$restyled_long" 64 84 --restyled --clips 120
vary data/restyled_views "$restyled_views" 70 90 --restyled --clips 450 --frames 9
vary data/stretched_views "$stretched_views" 110 130 --stretched --restyled --clips 450 --frames 9
vary data/stretched_views "$stretched_plain" 150 160 --stretched --clips 450 --frames 9
# shellcheck disable=SC2086  # the presets are lists of flags
{
  train vae default_vae $vae
  train vae_whole default_vae --config.init_from=runs/vae/model --config.crop=0 --config.batch_size=2 \
    --config.learning_rate=1e-4 --config.warmup_steps=20 --config.ema_decay=0.98 --config.checkpoint_every=100 $vae_whole
  train vae_decoder default_vae --config.init_from=runs/vae_whole/model --config.trains=decoder --config.crop=0 \
    --config.batch_size=2 --config.warmup_steps=50 --config.ema_decay=0.998 --config.perceptual_weight=0.005 $vae_decoder
  train vae_more default_vae --config.init_from=runs/vae_decoder/model --config.crop=0 --config.batch_size=2 \
    --config.warmup_steps=100 --config.ema_decay=0.998 --config.perceptual_weight=0.005 --config.perceptual_frames=1 \
    --config.seed=5 $vae_more
  train decoder_more default_vae --config.init_from=runs/vae_more/model --config.trains=decoder --config.crop=0 \
    --config.batch_size=2 --config.warmup_steps=60 --config.ema_decay=0.998 --config.perceptual_weight=0.005 \
    --config.perceptual_frames=1 --config.seed=6 $decoder_more
  places="--config.crop=0 --config.batch_size=2 --config.learning_rate=2.5e-4 --config.warmup_steps=60"
  places+=" --config.ema_decay=0.998 --config.perceptual_frames=1 --config.data=data/doom,data/doom,data/restyled"
  train vae_places default_vae $places --config.init_from=runs/decoder_more/model --config.perceptual_weight=0.003 \
    --config.seed=12 $vae_places
  train decoder_places default_vae $places --config.init_from=runs/vae_places/model --config.trains=decoder \
    --config.perceptual_weight=0.003 --config.seed=14 $decoder_places
  train decoder_longer default_vae $places --config.init_from=runs/decoder_places/model --config.trains=decoder \
    --config.perceptual_weight=0.002 --config.seed=15 $decoder_longer
  code data/doom data/latents --pixels
  code data/restyled_long data/latents_restyled --pixels
  code data/doom_views data/latents_views
  code data/restyled_views data/latents_restyled_views
  code data/stretched_views data/latents_stretched_views
  train heads default_heads \
    --config.data=data/latents_views,data/latents_restyled_views,data/latents_stretched_views $heads
  latents="--config.data=data/latents,data/latents_restyled"
  train backbone default_backbone $latents $backbone
  train memory default_memory $latents $memory
  train memory_one_step default_one_step $latents $one_step
  train memory_seen default_one_step $latents --config.init_from=runs/memory_one_step/model --config.seed=3 \
    --config.perceptual_weight=0.15 $seen
  train memory_rgb default_memory $latents --config.memory=rgb $memory
  train memory_rgb_one_step default_one_step $latents --config.memory=rgb --config.init_from=runs/memory_rgb/model $one_step
  train memory_rgb_seen default_one_step $latents --config.memory=rgb --config.init_from=runs/memory_rgb_one_step/model \
    --config.seed=3 --config.perceptual_weight=0.15 $seen
}
$python -m experiments.export --model runs/memory_seen/model --out mirage_jax/assets/default
$python -m experiments.export --model runs/memory_rgb_seen/model --parts side,lora --out mirage_jax/assets/default/rgb
