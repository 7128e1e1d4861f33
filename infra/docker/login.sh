# When: in the images, as /etc/profile.d/rasterloom.sh. A login shell sets PATH anew, and `ray up` runs every command
#   in one: without this line it finds neither `ray` nor the right `python`.
# shellcheck shell=sh
export PATH=/opt/rasterloom/bin:$PATH
